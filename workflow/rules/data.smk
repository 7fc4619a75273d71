rule prepare:
    """The dataset in canonical order, once, for all runs and jobs."""
    output:
        f"data/{RUN.config['dataset']}/prepared.json",
    log:
        FOLDER.root / "logs/prepare.log",
    shell:
        "{LAT:q} prepare --config {CONFIG} > {log} 2>&1"
