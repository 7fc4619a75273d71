# Everything is called by its path in .venv: nothing has to be activated.
PYTHON ?= python3
JOBS ?= 2
PROFILE ?= ci

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --cores all --resources gpu=2

.DEFAULT_GOAL := help
.PHONY: help install report mnist report-reference test verify mutation lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## prepare .venv with the pinned versions (once)

$(STAMP): pyproject.toml constraints.txt oracles.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("lat needs Python 3.11 or later; $(PYTHON) is " \
	    + sys.version.split()[0] + ". Name another one: make install PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	    || { echo "could not create $(VENV); on Debian and Ubuntu the package python3-venv is needed" >&2; exit 1; }
	@echo "installing the pinned packages into $(VENV), once; this takes some minutes"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --requirement oracles.txt
	@touch $(STAMP)

report: install  ## run the embedded default and make reports/quick.pdf
	$(SNAKEMAKE)
	@echo "the report: $(CURDIR)/reports/quick.pdf"

mnist: install  ## run Tables I-VII on MNIST (hours; see README)
	$(SNAKEMAKE) --configfile config/mnist.yaml

report-reference: install  ## rebuild the committed MNIST report from its ledger
	$(BIN)/lat report --reference reports/reference/mnist
	@echo "the report: $(CURDIR)/reports/reference/mnist/report.pdf"

test: install  ## all tests (JOBS=2 workers, one torch thread each)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

verify: install  ## prove, test or refute every equation of the paper (PROFILE=thorough tries more)
	OMP_NUM_THREADS=1 $(BIN)/lat verify --profile $(PROFILE)

mutation: install  ## whether the tests notice mistakes put into the method's modules (JOBS=2 workers; about an hour)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutation]'
	$(BIN)/python tests/mutation/judge.py --jobs $(JOBS)

lint: install  ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	$(BIN)/python workflow/lint.py

clean:  ## remove caches and rendered PDFs; never data, results or .venv
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist reports/build reports/*.pdf
	find lat tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +
