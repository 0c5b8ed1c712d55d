# Headwater: `make demo` shows everything, `make test` proves it. `make help` lists the rest.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

# One marker file for each set of dependencies; made again when pyproject.toml changes.
$(VENV)/.run-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.dev-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(VENV)/.run-installed $@

.PHONY: setup
setup: $(VENV)/.dev-installed ## make .venv with everything that development needs

.PHONY: demo
demo: $(VENV)/.run-installed ## text of this Python environment -> a small base model and its report, in minutes
	$(BIN)/headwater run demo

.PHONY: test
test: setup ## the default tests, about ten minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m 'not slow'

.PHONY: test-all
test-all: setup ## every test, also the slow ones
	$(BIN)/pytest

.PHONY: check
check: setup ## format, lint, types, layers, generated pages: exactly what CI runs before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

.PHONY: fix
fix: setup ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: generate
generate: setup ## write the settings reference and the JSON schema anew from the code
	$(BIN)/python docs/generate.py

.PHONY: bench
bench: setup ## side-by-side benchmarks against peers, each prints a ratio
	for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
