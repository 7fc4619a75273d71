rule attack:
    """Every attack of the run on one trained cell and seed: verdicts by image, and their record."""
    input:
        data_of("attack"),
        weights=weights_of("attack"),
    output:
        record=FOLDER.root / "records/{slug}/seed{seed}.attack.json",
        verdicts=FOLDER.root / "verdicts/{slug}/seed{seed}.npz",
    log:
        FOLDER.root / "logs/{slug}.seed{seed}.attack.log",
    benchmark:
        FOLDER.root / "benchmarks/{slug}.seed{seed}.attack.tsv"
    resources:
        gpu=GPU,
    params:
        sources=sources_of("attack"),
        settings=settings_of("attack"),
    shell:
        "{LAT:q} attack --config {CONFIG} --cell {wildcards.slug} --seed {wildcards.seed} > {log} 2>&1"
