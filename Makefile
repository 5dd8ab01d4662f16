# Every target makes its own environment; nothing has to be installed by hand but Python 3.11+ and git.

# The first Python that is new enough.
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
VENV ?= .venv
# What the numbers of examples/nanochat were measured with; on a GPU take the build that suits its driver.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: help demo agents test test-slow check bench nanochat nanochat-sweep clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## a real sweep on this machine's CPU, in under three minutes
	$(BIN)/python examples/quickstart/demo.py

agents: $(VENV)/.test  ## the coding agents that the tests drive, in environments of their own
	$(BIN)/python -m tests.tools

test: agents  ## the test suite, every layer for real
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

test-slow: agents  ## the long forms of what the suite tests in short
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m slow

check: $(VENV)/.test  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test  ## the numbers of the README
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.board

$(VENV)/.nanochat: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[nanochat]' '$(TORCH)'
	@touch $@

nanochat: $(VENV)/.nanochat  ## one training of examples/nanochat on this machine
	cd examples/nanochat && $(abspath $(BIN))/python prepare.py && $(abspath $(BIN))/python harness.py

nanochat-sweep: $(VENV)/.nanochat  ## 40 experiments on it, with two workers on a CPU
	cd examples/nanochat && VIRTUAL_ENV=$(abspath $(VENV)) PATH="$(abspath $(BIN)):$$PATH" autoresearch-ray run cpu.md

clean:  ## remove what the targets above made
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
