# Each target stands alone on a fresh clone: it makes .venv first, and installs again only when the versions change.

PYTHON ?= python3
VENV := .venv
INSTALL := $(VENV)/bin/python -m pip install --constraint constraints.txt --editable
VERSIONS := pyproject.toml setup.py constraints.txt

.NOTPARALLEL:
.PHONY: help quickstart test check

help:
	@echo "make quickstart   install, and run recipes/quickstart.yaml (a few minutes on a laptop)"
	@echo "make test         install what tests need, and run them"
	@echo "make check        format, lint, types, and which package may import which"

quickstart: $(VENV)/.installed
	$(VENV)/bin/align run recipes/quickstart.yaml

test: $(VENV)/.installed-test
	$(VENV)/bin/pytest -n 2

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VERSIONS) | $(VENV)/bin/python
	$(INSTALL) .
	@touch $@

$(VENV)/.installed-%: $(VERSIONS) | $(VENV)/bin/python
	$(INSTALL) ".[$*]"
	@touch $@
