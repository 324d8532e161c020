# make demo   decompose fresh scenes with shipped weights
# make test   everything that continuous integration checks
# Each makes .venv on its first run. Needs Python 3.11 or later, pip, make, git.

# The first Python that runs and is new enough (a name on the path alone may be a shim that does not run).
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

# An extra package index for PyTorch alone, for example https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

# $(call pip_install,ARGUMENTS): tried twice, since a package index may be away for a moment.
pip_install = $(PIP_INSTALL) $(1) || { echo 'The installation failed; trying once more.'; sleep 5; $(PIP_INSTALL) $(1); }

# The tests run in two processes: one thread each fills two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: demo test test-all lint format clean help

demo: $(VENV)/run.stamp  ## decompose fresh scenes with shipped weights, print scores, write a picture
	$(BIN)/emorl demo

test: lint  ## lint, types and the fast tests: what continuous integration checks
	$(PYTEST) -m 'not slow and not gpu'

test-all: lint  ## the same with the slow tests; `.venv/bin/pytest -m gpu` runs those that need a GPU
	$(PYTEST) -m 'not gpu'

lint: $(VENV)/dev.stamp  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp  ## write the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and every cache; runs and results stay
	rm -rf $(VENV) build dist src/emorl.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/torch.stamp: pyproject.toml constraints.txt
	@$(or $(PYTHON),python3) -c '$(NEW_ENOUGH)' || { \
		echo 'emorl needs Python 3.11 or later. Install it, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Installing PyTorch and the other packages into $(VENV); this happens once and takes some minutes.'
	@test -n '$(TORCH_INDEX)' || test "$$(uname)" != Linux || \
		echo 'Without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves gigabytes of CUDA.'
	$(or $(PYTHON),python3) -m venv $(VENV)
	@$(call pip_install,$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) setuptools torch)
	@touch $@

# setuptools is pinned and there already, so the package is built with it and nothing else is fetched.
$(VENV)/run.stamp: $(VENV)/torch.stamp
	@$(call pip_install,--no-build-isolation -e .)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(call pip_install,--no-build-isolation -e '.[dev]')
	@touch $@
