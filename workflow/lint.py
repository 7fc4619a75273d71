"""`snakemake --lint`, held to account: every finding fails, but for those explained here.

Run from the project's folder: python workflow/lint.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXPLAINED = {
    "Specify a conda environment or container for each rule.": (
        "one environment serves all rules: the one that runs Snakemake, made by `make install` or from environment.yml"
    ),
    "Shell command directly uses variable LAT from outside of the rule": (
        "where the command is installed decides no result; as a parameter, moving it would run everything again"
    ),
    "Shell command directly uses variable CONFIG from outside of the rule": (
        "what of the run file decides a job's result is in its slug and parameters; the whole file would be too much"
    ),
}


def main() -> int:
    """Print the findings that are not explained; 1 where there is one, or where the linter itself failed."""
    snakemake = Path(sys.executable).with_name("snakemake")
    run = subprocess.run([snakemake, "--lint", "text"], capture_output=True, text=True, check=False)
    lines = (run.stdout + run.stderr).splitlines()
    found = [line.strip("* :") for line in lines if line.startswith("    * ")]
    if run.returncode and not found:
        print(run.stderr, file=sys.stderr)
        return 1
    open_findings = [title for title in found if title not in EXPLAINED]
    if open_findings:
        print("\n".join(lines))
    print(
        f"snakemake --lint: {len(found) - len(open_findings)} explained in workflow/lint.py, {len(open_findings)} open"
    )
    return 1 if open_findings else 0


if __name__ == "__main__":
    sys.exit(main())
