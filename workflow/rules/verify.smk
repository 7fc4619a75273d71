rule verify:
    """Every equation proved, tested or refuted; fails where a law's status is not the expected one."""
    input:
        "config/equations.yaml",
    output:
        "results/equations.json",
    log:
        "results/logs/verify.log",
    benchmark:
        "results/benchmarks/verify.tsv"
    params:
        sources=sources.digest("verify", ()),
    shell:
        "{LAT:q} verify --output {output} > {log} 2>&1"
