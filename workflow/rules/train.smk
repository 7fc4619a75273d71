rule train:
    """One cell from one seed: weights, and the record that says how they came about."""
    input:
        data_of("train"),
    output:
        weights=FOLDER.root / "weights/{slug}/seed{seed}.safetensors",
        record=FOLDER.root / "records/{slug}/seed{seed}.train.json",
    log:
        FOLDER.root / "logs/{slug}.seed{seed}.train.log",
    benchmark:
        FOLDER.root / "benchmarks/{slug}.seed{seed}.train.tsv"
    resources:
        gpu=GPU,
    params:
        sources=sources_of("train"),
    shell:
        "{LAT:q} train --config {CONFIG} --cell {wildcards.slug} --seed {wildcards.seed} > {log} 2>&1"
