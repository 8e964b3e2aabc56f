# `make help` lists the targets. Everything runs from .venv, which `install` keeps up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := streams,train,serving,parquet,experiments,dev
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install check format test faults demo bench lock clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## Make .venv with the locked versions and the `aif` command

$(INSTALLED): pyproject.toml constraints.lock $(wildcard serving/kernels/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.lock --editable '.[$(EXTRAS)]'
	@touch $@

check: install ## Lint, formatting, types and the shape of the code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest tests/test_shape.py

format: install ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: install ## All tests: unit tests first, then those on a real Kafka, which they start and stop
	$(BIN)/pytest --ignore=tests/faults $(ARGS)

faults: install ## The crash tests: kill -9, pauses, rebalances, disks, brokers
	$(BIN)/pytest tests/faults $(ARGS)

demo: install ## The whole system on a bundled log; JSON=1 prints the summary as JSON, KEEP=1 leaves it running
	$(BIN)/aif demo $(if $(JSON),--json) $(if $(KEEP),--keep)

bench: install ## Measure against rivals and physical limits; WHAT=streams (the default), windows, serving or rollout
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.lock --editable '.[$(EXTRAS),bench]'
	$(BIN)/aif bench $(or $(WHAT),streams) $(ARGS)

lock: ## Write constraints.lock anew: the newest versions that pyproject.toml allows
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check '.[$(EXTRAS)]'
	sed '/^[^#]/,$$d' constraints.lock > build/constraints.new
	build/lock/bin/pip freeze --exclude aif-nearline >> build/constraints.new
	mv build/constraints.new constraints.lock && rm -rf build/lock

clean: ## Stop the local broker and remove what runs, builds and tests leave; .venv stays
	test ! -e .aif/broker/broker.json || $(BIN)/aif broker stop
	rm -rf .aif build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
