# make demo   decompose fresh scenes with shipped weights
# make test   everything that continuous integration checks
# make web    what the explorer needs beside: then .venv/bin/emorl explore nano
# Each makes .venv on its first run. Needs Python 3.11 or later, pip, make, git; the explorer also npm.

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

# The explorer's page, and what npm fetches for it.
PAGE := src/emorl/web/page
PAGE_PARTS := $(PAGE)/node_modules/.package-lock.json

# The tests run in two processes: one thread each fills two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: demo test test-all web lint format clean help

demo: $(VENV)/run.stamp  ## decompose fresh scenes with shipped weights, print scores, write a picture
	$(BIN)/emorl demo

test: lint  ## lint, types and the fast tests: what continuous integration checks
	$(PYTEST) -m 'not slow and not gpu'

test-all: lint  ## the same with the slow tests; `.venv/bin/pytest -m gpu` runs those that need a GPU
	$(PYTEST) -m 'not gpu'

web: $(VENV)/web.stamp $(PAGE_PARTS)  ## what `emorl explore` needs, at pinned versions; needs npm
	@echo 'Now: $(BIN)/emorl explore nano'

lint: $(VENV)/dev.stamp  ## style, format and types; those of the explorer's page too where npm is there
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@command -v npm > /dev/null || echo 'npm is not there: the page of the explorer is neither checked nor tested.'
	@! command -v npm > /dev/null || { $(MAKE) --no-print-directory $(PAGE_PARTS) && cd $(PAGE) && node_modules/.bin/tsc; }

format: $(VENV)/dev.stamp  ## write the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and every cache; runs and results stay
	rm -rf $(VENV) $(PAGE)/node_modules build dist src/emorl.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
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

$(VENV)/web.stamp: $(VENV)/run.stamp
	@$(call pip_install,--no-build-isolation -e '.[web]')
	@touch $@

# Install scripts stay unrun: none is needed for what is used.
$(PAGE_PARTS): $(PAGE)/package.json $(PAGE)/package-lock.json
	@command -v npm > /dev/null || { echo 'The explorer needs npm: install Node.js 20 or later.' >&2; exit 1; }
	npm ci --prefix $(PAGE) --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@$(call pip_install,--no-build-isolation -e '.[dev]')
	@touch $@
