# Everything that a newcomer or a contributor types; `make` lists it.
#
# One environment serves the runs and the tests: the notebooks and the checks of `make test` then see exactly the
# versions that `make run` used, and a second environment would double the download for some ten small packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Further options of the Kedro command behind a target, as in `make run ARGS="--env v15"`.
ARGS ?=
# Processes that share the test files between them; 0 runs all in one.
WORKERS ?= 2

# `kedro mlflow ui` looks for the command `mlflow`.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# An idle OpenMP worker that spins steals the core of the one that works; these are read when torch is imported.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false
# No tool of this project reports its use to anybody.
export DO_NOT_TRACK ?= true
export MLFLOW_DISABLE_TELEMETRY ?= true
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help env base run test viz ui serve sample notebooks

help: ## List the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

env: $(VENV)/.installed ## Make the environment in .venv from the pinned versions

base: env ## Fetch the pretrained base of `--env smollm2-135m`, once
	@$(BIN)/kedro base fetch smollm2-135m-instruct $(ARGS)

run: env ## Run all pipelines on the embedded sample, to a staged release
	@$(BIN)/kedro run $(ARGS)

test: env ## Lint, check types and floors, run the tests
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import-linter" && $(BIN)/lint-imports
	@echo "== pytest" && $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

viz: env ## Look at the lineage in Kedro-Viz
	@$(BIN)/kedro viz run $(ARGS)

ui: env ## Look at the runs in MLflow
	@$(BIN)/kedro mlflow ui $(ARGS)

serve: env ## Serve the model of the last run over HTTP, with a page to try it on
	@$(BIN)/python -m odin_slm.serving --model data/06_models/demo/adapter $(ARGS)

sample: env ## Write the embedded sample corpora again
	@$(BIN)/kedro run --pipelines sample

notebooks: env ## Open the notebooks
	@$(BIN)/kedro jupyter lab

$(VENV)/.installed: pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "odin-slm needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." ; \
	    echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" ; exit 1 ; }
	@echo "Installing the pinned versions into $(VENV) (several minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements/constraints.txt -e ".[dev,ray,serve]"
	@touch $@
	@echo "Installed."
