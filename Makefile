# Tailrace: everything a person types while working on it.  `make` alone shows the list.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Each worker has database servers of its own. With servers of yours: make test TEST_WORKERS=0
TEST_WORKERS ?= 2
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install test slow lint format audit demo bench bench-check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with tailrace and all it needs

$(STAMP): pyproject.toml setup.py engine/toolkit/buffer.h sources/mysql/codec/_accelerator.c sinks/postgres/_accelerator.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Tailrace needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Choose another one: make PYTHON=python3.12 install" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) .ci/make_venv.py $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: $(STAMP) ## run the tests, with private database servers
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

slow: $(STAMP) ## run the long tests
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, its formatter in check mode, mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the sources into their standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: $(STAMP) ## look for known vulnerabilities of the installed packages; asks PyPI
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[audit]'
	@mkdir -p build
	$(BIN)/python -m pip freeze --exclude-editable > build/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement build/installed.txt

demo: $(STAMP) ## mirror a small live shop database, kill the engine, cut over, and prove it
	@mkdir -p build
	$(BIN)/tailrace demo --report build/cutover.html

bench: $(STAMP) ## measure everything at full size (under an hour), into benchmarks/results/
	$(BIN)/tailrace bench all --peers --tables 2000 --columns 32 --save benchmarks/results/results.json \
	  --plot benchmarks/results/plots --report benchmarks/results/README.md $(BENCH_ARGS)

bench-check: $(STAMP) ## check that decoders and encoder are not slower than recorded
	$(BIN)/python -m benchmarks.check benchmarks/results/check.json

clean: ## remove the virtual environment and everything that tools have written
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f sources/mysql/codec/_accelerator*.so sinks/postgres/_accelerator*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
