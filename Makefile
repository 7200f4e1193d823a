# Two commands for a newcomer: `make quickstart` and `make test`. `make help` lists the rest.
# PYTHON=/path/to/python3.12 chooses the Python that .venv is made with.

export PYTHON
# Kept bytecode: every process that starts reads torch and MLflow in a third of the time it takes to compile them (pip does not, set-up
# is quicker so). Containers often forbid it, for images that run a program once.
unexport PYTHONDONTWRITEBYTECODE
PY := .venv/bin/python
TESTS ?=
# What `make setup` installs of setup.cfg's extras. A GPU machine: make setup EXTRAS=gpu,encoders
EXTRAS ?= cpu
# Whose commands `make package` prints: standalone, yarn or kubernetes.
TARGET ?= standalone
# Whose runs `make mlflow` shows.
WORK ?= work

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup gpu-check audit develop sharded quickstart test lint unit integration format docs mlflow package clean distclean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv, install the project, find or get Java
	@sh tools/setup.sh --extras $(EXTRAS)

develop: ## The same with the encoders, what tests need, and a headless browser for the checks of pages
	@sh tools/setup.sh --extras cpu,dev,encoders,docs

sharded: setup ## Make .venv-sharded: .venv and TorchRec, for tables spread over processes (train.model.tables=sharded)
	@sh tools/sharded.sh

quickstart: setup ## Run the whole chain on the bundled shop data and print the table of methods
	@$(PY) jobs/pipeline.py --config conf/quickstart.yaml

test: lint unit integration ## Lint, types, floors, unit tests, then tests with real components

lint: develop ## ruff, mypy on esans/, import floors
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

unit: develop ## Fast tests (TESTS=tests/prepare picks some)
	$(PY) -m pytest -m "not integration" -n 2 --dist loadfile $(TESTS)

integration: develop ## A real Spark cluster, a real MLflow server, killed processes
	@sh tools/sharded.sh || { rm -rf .venv-sharded; echo 'no .venv-sharded: the test of sharded tables is skipped'; }
	$(PY) -m pytest -m integration -n 2 --dist loadfile tests

gpu-check: ## Prove every claim about GPUs on this machine; writes docs/gpu-check.md (needs a GPU, and make develop)
	$(PY) -m benchmarks.gpu_check

audit: setup ## Compare the installed packages with databases of known weaknesses (needs the network)
	$(PY) -m pip install --quiet pip-audit
	@$(PY) -m tools.audit

format: develop ## Put the code into its one format
	$(PY) -m ruff check --fix --select I .
	$(PY) -m ruff format .

docs: develop ## The site of docs/ into build/site, warnings as errors
	$(PY) -m tools.site

mlflow: setup ## Open the MLflow UI on the quickstart's runs
	$(PY) -m mlflow ui --backend-store-uri sqlite:///$(WORK)/mlflow.db

package: setup ## dist/: the wheel, esans.zip for --py-files, a packed environment for --archives, and the commands (TARGET=yarn)
	@$(PY) -m esans.cli package --target $(TARGET)

clean: ## Remove results and caches, keep .venv
	rm -rf work build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache spark-warehouse metastore_db derby.log

distclean: clean ## Remove .venv, .venv-sharded, .jdk and .browser too
	rm -rf .venv .venv-sharded .jdk .browser esans.egg-info
