rule audit:
    """The checks of the run on one trained cell and seed, and the attacks that they ask for: what they found."""
    input:
        data_of("audit"),
        weights=weights_to_audit,
        attack=FOLDER.root / "records/{slug}/seed{seed}.attack.json",
        attacked=FOLDER.root / "verdicts/{slug}/seed{seed}.npz",
        surrogates=surrogate_weights,
    output:
        record=FOLDER.root / "records/{slug}/seed{seed}.audit.json",
        verdicts=FOLDER.root / "audits/{slug}/seed{seed}.npz",
    log:
        FOLDER.root / "logs/{slug}.seed{seed}.audit.log",
    benchmark:
        FOLDER.root / "benchmarks/{slug}.seed{seed}.audit.tsv"
    resources:
        gpu=GPU,
    params:
        sources=lambda wildcards: RUN.sources(RUN.entry(wildcards.slug), "audit"),
        settings=lambda wildcards: json.dumps(RUN.settings(RUN.entry(wildcards.slug), "audit"), sort_keys=True),
    shell:
        "{LAT:q} audit --config {CONFIG} --cell {wildcards.slug} --seed {wildcards.seed} > {log} 2>&1"
