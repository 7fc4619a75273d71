"""`python -m lat.cli` is `lat`."""

import sys

from lat.cli import main

if __name__ == "__main__":
    sys.exit(main())
