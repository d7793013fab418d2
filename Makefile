# Everything that a newcomer or a contributor types; `make` lists it.
#
# One environment serves the runs and the tests: the notebooks and the checks of `make test` then see exactly the
# versions that `make run` used. It grows on demand: each target adds the extras of pyproject.toml that it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Unsloth changes transformers, PEFT and TRL wherever it is imported: it has an environment of its own.
UNSLOTH := .venv-unsloth
# What `make env` installs, separated by commas, as in `make env EXTRAS=dev,gpu`.
EXTRAS ?= pipelines
# Further options of the Kedro command behind a target, as in `make run ARGS="--env v15"`.
ARGS ?=
# The environment of `make real`; smollm2-135m-ade needs DIR/ade alone.
EXPERIMENT ?= smollm2-135m
# Processes that share the test files between them; 0 runs all in one.
WORKERS ?= 2
# The folders of tests that import no model library; `make check` runs what is not marked slow in them.
FAST := tests/corpora tests/dataprep tests/datasets tests/project tests/release tests/reporting tests/tasks

# `kedro mlflow ui` looks for the command `mlflow`.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# An idle OpenMP worker that spins steals the core of the one that works; these are read when torch is imported.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false
# uv installs without compiling; the first import compiles what it takes, and this lets Python keep that.
unexport PYTHONDONTWRITEBYTECODE
# No tool of this project reports its use to anybody.
export DO_NOT_TRACK ?= true
export MLFLOW_DISABLE_TELEMETRY ?= true
export HF_HUB_DISABLE_TELEMETRY ?= 1
# Material for MkDocs speaks of its successor at every build; mkdocs.yml does once.
export NO_MKDOCS_2_WARNING ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env base unsloth run real test test-cluster test-unsloth check docs pictures viz ui serve sample notebooks site static

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

env: $(VENV)/.with-$(EXTRAS) ## Make the environment in .venv from the pinned versions

base: $(VENV)/.with-pipelines ## Fetch the pretrained base of `--env smollm2-135m`, once
	@$(BIN)/kedro base fetch smollm2-135m-instruct $(ARGS)

unsloth: $(UNSLOTH)/.with-unsloth ## Make .venv-unsloth, whose kedro trains by Unsloth on a CPU

run: $(VENV)/.with-pipelines ## Run all pipelines on the embedded sample, to a staged release
	@$(BIN)/kedro run $(ARGS)

real: $(VENV)/.with-pipelines ## Run all pipelines on the corpora in CORPORA=DIR with a pretrained base
	@test -d "$(CORPORA)" || { \
	    echo "Name the folder that holds ade, bc5cdr and biored: make real CORPORA=DIR" ; exit 1 ; }
	@$(BIN)/kedro base fetch smollm2-135m-instruct
	@$(BIN)/kedro run --env $(EXPERIMENT) --params corpora="$$(cd "$(CORPORA)" && pwd)" $(ARGS)

test: $(VENV)/.with-dev,ray static site ## Lint, check types and layers, build the documentation, run the tests
	@echo "== pytest" && $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not alone"

test-cluster: $(VENV)/.with-dev,ray ## Test Ray on four machines, which are network namespaces and need root
	@echo "== pytest, Ray's machines" && $(BIN)/python -m pytest -m alone tests/inference

test-unsloth: unsloth ## Test Unsloth and 4-bit training on a CPU, in .venv-unsloth
	@echo "== pytest, Unsloth" && $(UNSLOTH)/bin/python -m pytest --durations 0 -p no:cacheprovider tests/unsloth_cpu

check: $(VENV)/.with-dev static ## Lint, types, layers and the fast tests alone, in a minute
	@echo "== pytest, fast" && $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(FAST)

static: # after the environment of who asks for it
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import-linter" && $(BIN)/lint-imports

site: # after the environment of who asks for it; --quiet would keep --strict from seeing the warnings
	@echo "== documentation" && $(BIN)/mkdocs build --strict

docs: $(VENV)/.with-docs site ## Build the documentation site; it begins at site/index.html

pictures: $(VENV)/.with-serve,viz ## Make the pictures of the documentation again, after `make run`; needs Chromium
	@$(BIN)/python docs/pictures.py

viz: $(VENV)/.with-viz ## Look at the lineage in Kedro-Viz
	@$(BIN)/kedro viz run $(ARGS)

ui: $(VENV)/.with-pipelines ## Look at the runs in MLflow
	@$(BIN)/kedro mlflow ui $(ARGS)

serve: $(VENV)/.with-serve ## Serve the model of `make run` over HTTP, with a page to try it on
	@$(BIN)/python -m odin_slm.serving --model data/06_models/demo/adapter $(ARGS)

sample: $(VENV)/.with-pipelines ## Write the embedded sample corpora again
	@$(BIN)/kedro run --pipelines sample

notebooks: $(VENV)/.with-notebooks ## Open the notebooks
	@$(BIN)/kedro jupyter lab

$(VENV)/.with-%: pyproject.toml requirements/constraints.txt requirements/install.py | $(VENV)/.made
	@echo "Installing the pinned versions into $(VENV), for $* (minutes the first time) ..."
	@$(BIN)/python requirements/install.py $*
	@touch $@
	@echo "Installed."

# Unsloth goes in without its dependencies: xformers, Triton and torchvision are of no use on a CPU, and bring CUDA.
$(UNSLOTH)/.with-unsloth: pyproject.toml requirements/constraints.txt requirements/unsloth-cpu.txt
	@echo "Installing the pinned versions into $(UNSLOTH) (minutes the first time) ..."
	@test -x $(UNSLOTH)/bin/python || $(PYTHON) -m venv $(UNSLOTH)
	@$(UNSLOTH)/bin/python requirements/install.py nf4
	@$(UNSLOTH)/bin/python -m pip install --quiet -c requirements/constraints.txt hypothesis pytest pytest-timeout
	@$(UNSLOTH)/bin/python -m pip install --quiet --no-deps -r requirements/unsloth-cpu.txt
	@touch $@
	@echo "Installed."

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "odin-slm needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." ; \
	    echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" ; exit 1 ; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
