for _table in RUN.config["tables"]["show"]:

    rule:
        """One table of the paper, reported beside measured, from the records of its cells alone."""
        name:
            _table
        input:
            job_files(RUN.entries_of(_table), without=["harder", "audit"]),
            RUN.config["tables"]["file"],
            "reports/table.typ",
            asked=ASKED,
        output:
            report(
                FOLDER.root / f"tables/{_table}/{_table}.pdf",
                caption="../report/table.rst",
                category="Tables",
            ),
            expand(FOLDER.root / f"tables/{_table}/{_table}.{{kind}}", kind=["json", "csv", "md"]),
        log:
            FOLDER.root / f"logs/{_table}.log",
        params:
            table=_table,
        shell:
            "{LAT:q} table {params.table} --config {CONFIG} > {log} 2>&1"


rule tables:
    """All tables of the run, each alone."""
    input:
        [FOLDER.root / f"tables/{table}/{table}.pdf" for table in RUN.config["tables"]["show"]],


rule figures:
    """All figures of the run, and the series that they show."""
    input:
        rules.collect.output,
        rules.equivalence.output,
        RUN.config["tables"]["file"],
    output:
        report(FOLDER.root / "figures/figures.json", caption="../report/figures.rst", category="Figures"),
    log:
        FOLDER.root / "logs/figures.log",
    params:
        run=json.dumps(config, sort_keys=True),
    shell:
        "{LAT:q} figures --config {CONFIG} > {log} 2>&1"


rule report:
    """The PDF."""
    input:
        rules.collect.output,
        rules.equivalence.output,
        rules.verify.output,
        rules.figures.output,
        rules.tables.input,
        templates=sorted(str(path) for path in Path("reports").glob("*.typ")),
        registers=[RUN.config[key] for key in ("claims", "assumptions")] + list(RUN.audit_files),
        again=[str(path) for path in [FOLDER.root / rederived.FILE] if path.exists()],
        studies=[str(path) for folder in RUN.config["studies"].values() for path in Path(folder).glob("ledger.csv")],
    output:
        report(REPORT, caption="../report/report.rst", category="Report"),
    log:
        FOLDER.root / "logs/report.log",
    params:
        run=json.dumps(config, sort_keys=True),
    shell:
        "{LAT:q} report --config {CONFIG} > {log} 2>&1"
