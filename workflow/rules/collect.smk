rule collect:
    """All records of the run as one ledger; refuses what is not what the run asks for."""
    input:
        job_files(RUN.entries),
        asked=ASKED,
    output:
        ledger=report(FOLDER.root / "ledger.csv", caption="../report/ledger.rst", category="Ledger"),
        records=FOLDER.root / "records.jsonl",
    log:
        FOLDER.root / "logs/collect.log",
    shell:
        "{LAT:q} collect --config {CONFIG} > {log} 2>&1"
