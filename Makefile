# Each target stands alone on a fresh clone: it makes .venv first, and installs again only when the versions change.

PYTHON ?= python3
VENV := .venv
INSTALL := $(VENV)/bin/python -m pip install --constraint constraints.txt --editable
VERSIONS := pyproject.toml setup.py constraints.txt

.NOTPARALLEL:
.PHONY: help quickstart test check soak

help:
	@echo "make quickstart   install, and run recipes/quickstart.yaml (a few minutes on a laptop)"
	@echo "make test         install what tests need, and run them"
	@echo "make check        format, lint, types, and which package may import which"
	@echo "make soak         kill a tiny pipeline at 100 random moments, go on, compare (a quarter of an hour)"

quickstart: $(VENV)/.installed
	$(VENV)/bin/align run recipes/quickstart.yaml

test: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

soak: $(VENV)/.installed-test
	$(VENV)/bin/python benchmarks/soak.py --result benchmarks/results/soak.json

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VERSIONS) | $(VENV)/bin/python
	$(INSTALL) .
	@touch $@

$(VENV)/.installed-%: $(VERSIONS) | $(VENV)/bin/python
	$(INSTALL) ".[$*]"
	@touch $@
