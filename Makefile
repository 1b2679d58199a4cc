# Every target sets up what it needs in .venv by itself: with uv where it is installed, else with venv and pip.
# A second call finds the stamp of the first one and starts at once.

.DEFAULT_GOAL := help
.PHONY: help demo test check clean

VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# The first interpreter that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.demo ## Run the manager in a real proxy under load for half a minute.
	@$(BIN)/otel-sessions demo

test: $(VENV)/.dev ## Run all tests; the core's branch coverage must be 100 %.
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered

check: $(VENV)/.dev ## Lint, check the format, the types and the layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean: ## Remove the environment and every cache.
	rm -rf $(VENV) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist

$(VENV)/.demo: pyproject.toml uv.lock
ifdef UV
	@$(UV) sync --quiet --frozen --inexact --no-dev --extra demo
else
	@$(MAKE) --silent --no-print-directory $(VENV)/.pip
	@echo "Setting up $(VENV) for the demo ..."
	@$(BIN)/pip install --quiet --editable '.[demo]'
endif
	@touch $@

$(VENV)/.dev: pyproject.toml uv.lock
ifdef UV
	@$(UV) sync --quiet --frozen --inexact --group dev
else
	@$(MAKE) --silent --no-print-directory $(VENV)/.pip
	@echo "Setting up $(VENV) for development ..."
	@$(BIN)/pip install --quiet --editable . --group dev
endif
	@touch $@

# pip reads dependency groups from 25.1 on; the one that comes with an interpreter is often older.
$(VENV)/.pip:
	@test -n "$(PYTHON)" || { echo "otel-sessions needs Python 3.11 or later; none was found (PYTHON=... names one)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@
