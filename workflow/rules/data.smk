rule prepare:
    """A dataset in canonical order, once, for all runs and jobs."""
    output:
        prepared("{dataset}"),
    log:
        FOLDER.root / "logs/prepare.{dataset}.log",
    shell:
        "{LAT:q} prepare --config {CONFIG} --dataset {wildcards.dataset} > {log} 2>&1"
