# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
# A HOME that is unset or cannot be written has no place for uv's cache: keep it in the clone.
ifeq ($(shell test -n "$$HOME" && test -d "$$HOME" && test -w "$$HOME" && echo yes),)
export UV_CACHE_DIR := $(CURDIR)/.tools/cache
export PIP_CACHE_DIR := $(CURDIR)/.tools/pip-cache
endif
.DEFAULT_GOAL := help
.PHONY: help setup drift fmt lint type contracts test e2e bench faults fuzz verify-full package nspawn compose check run

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: .venv/.ready ## make .venv with everything locked in uv.lock

.venv/.ready: uv.lock pyproject.toml shared/pyproject.toml server/pyproject.toml agent/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Central Command needs Python 3.11 or newer as '$(PYTHON)': install it, or say 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python has no venv: install it (Debian, Ubuntu: apt install python3-venv) and say 'make' again." >&2; exit 1; }
	@echo "set-up 1/3  a virtual environment for uv (.tools)"
	@test -x .tools/bin/python || $(PYTHON) -m venv .tools
	@echo "set-up 2/3  uv $(UV_VERSION)"
	@.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || { \
	  echo "uv could not be installed: is PyPI reachable from here (proxy, certificates)? Then say 'make' again." >&2; exit 1; }
	@echo "set-up 3/3  the locked packages into .venv"
	@.tools/bin/uv sync --quiet --locked --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" || { \
	  echo "uv sync failed; the lines above say why. Mend it and say 'make' again." >&2; exit 1; }
	@touch $@

# ONLY=server runs one folder of tests/; MORE takes further options of pytest; JOBS is how many files at a time.
ONLY ?=
JOBS ?= 2
MORE ?=
TESTS = $(if $(ONLY),tests/$(ONLY),tests)

fmt: setup ## format the code, and mend what the linter can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

lint: setup ## ruff: style, bugs, complexity, security
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: setup ## mypy, strict
	@$(BIN)/mypy && $(BIN)/mypy run.py

contracts: setup ## who may import whom
	@$(BIN)/lint-imports

test: setup ## all tests (ONLY=server for one folder)
	@echo "tests: $(TESTS)"
	@$(BIN)/pytest -n $(JOBS) --dist loadfile $(TESTS) $(MORE)

e2e: setup ## the tests with real processes and a real browser
	@$(BIN)/pytest tests/e2e $(MORE)

drift: setup ## real drift of each family, found, repaired and proved, in namespaces of its own (root, nft, apt)
	@ROOT=1 $(BIN)/pytest tests/e2e/test_healing_families.py $(MORE)

bench: setup .tools/rivals/.ready ## measure (ONLY=name for one)
	@$(BIN)/python -m tests.bench $(ONLY)

# What users of the field pick instead has an environment of its own: it is measured, and never a part of this.
.tools/rivals/.ready: tests/bench/rivals.txt | setup
	@echo "set-up  what we measure ourselves against, into .tools/rivals"
	@.tools/bin/python -m venv .tools/rivals
	@.tools/rivals/bin/pip install --quiet --disable-pip-version-check -r tests/bench/rivals.txt || { \
	  echo "The libraries of tests/bench/rivals.txt could not be installed: is PyPI reachable from here?" >&2; exit 1; }
	@touch $@

faults: setup ## break everything that can break, at full length
	@$(BIN)/python -m tests.faults

fuzz: setup ## schemathesis against every route as every kind of caller, at length (EXAMPLES=n a route)
	@EXAMPLES=$${EXAMPLES:-100} $(BIN)/pytest tests/server/api/test_schemathesis.py $(MORE)

verify-full: setup ## the verifier: 20,000 spoilt exports, 1,000 honest ones
	@$(BIN)/python -m tests.verify

package: setup ## build wheels and Debian packages, prove them in a clean environment
	@UV=.tools/bin/uv sh tests/package.sh

nspawn: setup ## the Debian packages of `make package` on a booted machine (root; SUITE=trixie for another)
	@$(BIN)/python -m tests.nspawn

compose: setup ## packaging/container as it stands, on this machine's Docker, from local images (root)
	@$(BIN)/python -m tests.compose

check: lint type contracts ## lint, types, import contracts

run: setup ## the whole system on this machine, until Ctrl-C
	@exec $(BIN)/python run.py
