rule harder:
    """The further attacks of the audit on one attacked cell and seed: verdicts by image, and their record."""
    input:
        data_of("harder"),
        weights=weights_of("harder"),
        attack=FOLDER.root / "records/{slug}/seed{seed}.attack.json",
        attacked=FOLDER.root / "verdicts/{slug}/seed{seed}.npz",
        surrogates=surrogates_of("harder"),
    output:
        record=FOLDER.root / "records/{slug}/seed{seed}.harder.json",
        verdicts=FOLDER.root / "harder/{slug}/seed{seed}.npz",
    log:
        FOLDER.root / "logs/{slug}.seed{seed}.harder.log",
    benchmark:
        FOLDER.root / "benchmarks/{slug}.seed{seed}.harder.tsv"
    resources:
        gpu=GPU,
    params:
        sources=sources_of("harder"),
        settings=settings_of("harder"),
    shell:
        "{LAT:q} harder --config {CONFIG} --cell {wildcards.slug} --seed {wildcards.seed} > {log} 2>&1"
