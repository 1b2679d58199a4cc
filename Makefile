# Every target sets up what it needs in .venv: with uv if uv is installed, else with venv and pip.
# The setup leaves a stamp file, so the next call starts at once.

.DEFAULT_GOAL := help
.PHONY: help demo demo-pictures test test-all proxy-test check docs clean stack-tools stack-test stack-picture stack-gallery dashboards mixin settings bench \
	bench-proxy soak up down compose

VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
SETUP := Setting up $(VENV) with $(if $(UV),uv,pip)
ONCE := This is done once, and takes about a minute ...
COMPOSE ?= docker compose
# By default, matplotlib keeps its cache in the home directory.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib
# The first interpreter that is new enough. PYTHON=... chooses another interpreter.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# uv uses the same folder, and the interpreter of PYTHON=...
export UV_PROJECT_ENVIRONMENT := $(VENV)
ifneq ($(origin PYTHON),file)
export UV_PYTHON := $(PYTHON)
endif

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(VENV)/.demo ## Show two proxies under the same load for a minute; one of them leaks.
	@$(BIN)/otel-sessions demo --report build/demo

demo-pictures: demo ## Draw the pictures of the demo again, from a new run.
	cp build/demo/memory.svg docs/demo-memory.svg
	cp build/demo/terminal.svg docs/demo-terminal.svg

test: $(VENV)/.dev ## Run all tests; the core's branch coverage must be 100 %.
	$(BIN)/python -m pytest --ignore tests/stack --ignore tests/proxy -n 4 --dist worksteal --cov --cov-report=term-missing:skip-covered

test-all: $(VENV)/.dev ## Test the core on every installed Python from 3.11 to 3.14; ENDS=1: only the oldest and the newest.
	@$(BIN)/python tests/pythons.py $(if $(ENDS),--ends)

proxy-test: $(VENV)/.dev ## Test the proxy with real clients and servers, each in its own process.
	$(BIN)/python -m pytest tests/proxy

check: $(VENV)/.dev ## Lint, and check the format, the types and the layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.docs ## Build the documentation site into build/docs; a warning or a broken link fails.
	$(BIN)/sphinx-build -E -a -W --keep-going -n -q docs build/docs
	@echo "The site is at build/docs/index.html."

stack-tools: ## Build the stack's programs from source; needs Go 1.26, and takes a quarter of an hour, once.
	@python3 tests/stack/tools/build.py

stack-test: $(VENV)/.dev ## Test the stack against the real programs; REQUIRE_STACK=1 fails without them.
	$(BIN)/python -m pytest -m "stack and not gallery" tests/stack

stack-picture: $(VENV)/.dev ## Draw docs/memory.svg again, from a run against the real Prometheus.
	REQUIRE_STACK=1 $(BIN)/python -m pytest -q -m stack tests/stack/test_memory.py
	cp build/stack/memory.svg docs/memory.svg

stack-gallery: $(VENV)/.dev ## Draw the first screen of Sessions again, from what the real Prometheus answers; takes some minutes.
	REQUIRE_STACK=1 $(BIN)/python -m pytest -q -m gallery tests/stack/test_gallery.py
	cp build/stack/sessions-after.svg docs/grafana-sessions.svg

dashboards: $(VENV)/.dev ## Write the JSON of the dashboards from their description.
	$(BIN)/python -m grafana.describe

mixin: $(VENV)/.dev ## Write dashboards and alerts for your own stack into build/mixin; set RUNBOOK_URL and GRAFANA_URL.
	@test -n "$(RUNBOOK_URL)" -a -n "$(GRAFANA_URL)" || { echo "make mixin needs two links, which the alerts carry: \
	make mixin RUNBOOK_URL=https://wiki.example/otel-sessions GRAFANA_URL=https://grafana.example" >&2; exit 2; }
	@$(BIN)/python -m grafana.mixin --runbook "$(RUNBOOK_URL)" --grafana "$(GRAFANA_URL)" --into build/mixin

settings: $(VENV)/.dev ## Write the docs' tables of settings, signals and speed from the code and the results.
	$(BIN)/python -m docs

bench: $(VENV)/.dev ## Compare the core with other caches; takes a quarter of an hour, or a minute with QUICK=1.
	$(BIN)/python -m benchmarks.core $(if $(QUICK),--quick)

bench-proxy: $(VENV)/.dev ## Compare the proxy with nginx and other proxies; takes twelve minutes, or three with QUICK=1; needs wrk and nginx.
	$(BIN)/python -m benchmarks.proxies.peers
	$(BIN)/python -m benchmarks.proxy $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.workers $(if $(QUICK),--quick)

soak: $(VENV)/.dev ## Run the fault matrix of a fleet in its long form; takes an hour, or some minutes with QUICK=1; PART=rows runs a part.
	$(BIN)/python -m tests.fleet.soak $(if $(QUICK),--quick) $(PART)

up: compose ## Start the compose stack with Grafana at http://127.0.0.1:3000; COMPARE=1 adds a proxy that leaks, FLEET=1 a fleet, WORKERS=4 starts workers.
	$(if $(WORKERS),WORKERS=$(WORKERS)) $(COMPOSE) $(if $(COMPARE),--profile compare )$(if $(FLEET),--profile fleet )up --build --detach --wait --wait-timeout 300
	@echo "Grafana: http://127.0.0.1:$(or $(GRAFANA_PORT),3000)   Prometheus: http://127.0.0.1:$(or $(PROMETHEUS_PORT),9090)   \
	Jaeger: http://127.0.0.1:$(or $(JAEGER_PORT),16686)"

down: compose ## Stop the compose stack and remove its data.
	$(COMPOSE) --profile compare --profile fleet down --volumes --remove-orphans

compose:
	@command -v $(firstword $(COMPOSE)) >/dev/null || { echo "$(firstword $(COMPOSE)) is not installed. \
	Install Docker with Compose (https://docs.docker.com/compose/install/), or run make demo, which needs neither." >&2; exit 1; }
	@$(COMPOSE) version >/dev/null 2>&1 || { echo "Compose is missing: \"$(COMPOSE)\" does not work. \
	Install Docker's plugin (https://docs.docker.com/compose/install/), or set COMPOSE=docker-compose if it is installed, \
	or run make demo, which needs neither." >&2; exit 1; }

clean: ## Remove the environment, the caches and the build results.
	rm -rf $(VENV) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist

$(VENV)/.demo: pyproject.toml uv.lock
	@echo "$(SETUP) for the demo. $(ONCE)"
ifdef UV
	@$(UV) sync --quiet --frozen --inexact --no-dev --extra demo
else
	@$(MAKE) --silent --no-print-directory $(VENV)/.pip
	@$(BIN)/pip install --quiet --editable '.[demo]'
endif
	@touch $@

$(VENV)/.dev: pyproject.toml uv.lock
	@echo "$(SETUP) for development. $(ONCE)"
ifdef UV
	@$(UV) sync --quiet --frozen --inexact --group dev
else
	@$(MAKE) --silent --no-print-directory $(VENV)/.pip
	@$(BIN)/pip install --quiet --editable . --group dev
endif
	@touch $@

$(VENV)/.docs: pyproject.toml uv.lock
	@echo "$(SETUP) for the documentation. $(ONCE)"
ifdef UV
	@$(UV) sync --quiet --frozen --inexact --no-dev --group docs
else
	@$(MAKE) --silent --no-print-directory $(VENV)/.pip
	@$(BIN)/pip install --quiet --editable . --group docs
endif
	@touch $@

# pip reads dependency groups since 25.1; the pip of an interpreter is often older.
$(VENV)/.pip:
	@test -n "$(PYTHON)" || { echo "otel-sessions needs Python 3.11 or later, which was not found; name an interpreter with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@
