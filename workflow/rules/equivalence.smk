from lat import sources


rule equivalence:
    """How far R is from what FGSM at the input does to each layer, on the weights that the run keeps.

    The weights of imported records that came without them are not asked for.
    """
    input:
        ancient([prepared(dataset) for dataset in RUN.datasets]),
        weights=lambda wildcards: [FOLDER.weights(*pair) for pair in collection.kept(RUN, FOLDER)],
    output:
        rows=FOLDER.root / "equivalence.csv",
        origin=FOLDER.root / "equivalence.json",
    log:
        FOLDER.root / "logs/equivalence.log",
    benchmark:
        FOLDER.root / "benchmarks/equivalence.tsv"
    resources:
        gpu=GPU,
    params:
        sources=sources.digest("equivalence", ()),
        part=RUN.part,
    shell:
        "{LAT:q} equivalence --config {CONFIG} > {log} 2>&1"
