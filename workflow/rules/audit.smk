rule audit:
    """The checks of the run on one attacked cell and seed: what they found."""
    input:
        data_of("audit"),
        files_before_audit,
        weights=weights_of("audit"),
    output:
        record=FOLDER.root / "records/{slug}/seed{seed}.audit.json",
    log:
        FOLDER.root / "logs/{slug}.seed{seed}.audit.log",
    benchmark:
        FOLDER.root / "benchmarks/{slug}.seed{seed}.audit.tsv"
    resources:
        gpu=GPU,
    params:
        sources=sources_of("audit"),
        settings=settings_of("audit"),
    shell:
        "{LAT:q} audit --config {CONFIG} --cell {wildcards.slug} --seed {wildcards.seed} > {log} 2>&1"
