# One way to do each thing; CI calls these and nothing else. Needs Python 3.11+, pip and make.
PYTHON ?= python3
PORT   ?= 8000
HOURS  ?= 0.5
VENV   := .venv
BIN    := $(VENV)/bin
# uv must trust the system's certificates where a company's own are installed.
export UV_SYSTEM_CERTS := 1

.PHONY: setup check test demo cluster chaos soak bench docs format
.DEFAULT_GOAL := help

help:
	@echo "make demo   start the server with the guide agent (PORT=8000)"
	@echo "make cluster  the same as many processes on this machine: PostgreSQL, Redis, gateways, workers, auth service"
	@echo "make test   everything a release needs"
	@echo "make check  format, lint, types, import contracts, files of deploy/, unit tests"
	@echo "make soak   steady load for HOURS=0.5, and whether anything grows: memory, descriptors, tasks"
	@echo "make chaos  the long fault campaigns    make bench  the figures    make docs  the generated reference"

setup: $(VENV)/.ready-dev

# What a server needs, and no more: a newcomer's first start must not wait for test tools.
$(VENV)/.ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("Runwire needs Python 3.11 or newer; set PYTHON=… (this is %s)" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV) (once, about half a minute)…" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv sync --quiet --frozen --inexact --no-dev --python $(BIN)/python
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@$(BIN)/uv sync --quiet --frozen --inexact --python $(BIN)/python
	@touch $@

format: setup
	@$(BIN)/ruff format --quiet src tests examples bench deploy
	@$(BIN)/ruff check --quiet --fix src tests examples bench deploy

check: setup
	@$(BIN)/ruff format --check --quiet src tests examples bench deploy
	@$(BIN)/ruff check --quiet src tests examples bench deploy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/codespell src docs deploy README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md
	@$(BIN)/python -m runwire.protocol.schema --check
	@$(BIN)/python -m runwire.settings.reference --check
	@$(BIN)/python -m runwire.app.pages --check
	@$(BIN)/python -m runwire.conformance.reference --check
	@$(BIN)/python -m runwire.storage.migrations.tables --check
	@$(BIN)/python tests/unified_test_runner.py --category unit,deploy_files --max-workers 2

test: setup
	@$(BIN)/python tests/unified_test_runner.py --category all --max-workers 2

demo: $(VENV)/.ready
	@$(BIN)/python -m runwire dev runwire.guide:agent --port $(PORT)

cluster: setup
	@$(BIN)/uv sync --quiet --frozen --inexact --extra postgres --extra redis --python $(BIN)/python
	@$(BIN)/python -m runwire cluster runwire.guide:agent --port $(PORT)

chaos: setup
	@$(BIN)/python tests/unified_test_runner.py --category campaign --max-workers 1

soak: setup
	@$(BIN)/uv sync --quiet --frozen --inexact --extra postgres --extra redis --python $(BIN)/python
	@$(BIN)/python -m tests.soak --hours $(HOURS)

bench: setup
	@$(BIN)/uv sync --quiet --frozen --inexact --extra postgres --group bench --python $(BIN)/python
	@$(BIN)/python -m bench

docs: setup
	@$(BIN)/python -m runwire.protocol.schema --write
	@$(BIN)/python -m runwire.settings.reference --write
	@$(BIN)/python -m runwire.app.pages --write
	@$(BIN)/python -m runwire.conformance.reference --write
	@$(BIN)/python -m runwire.storage.migrations.tables --write
	@cp docs/reference/protocol.d.ts clients/js/protocol.d.ts
