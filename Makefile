# The one vocabulary: README, CI and people call only these.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")
BENCHES := quality overhead drift serving swap soak fuzz

.PHONY: help setup demo test test-all lint lock bench clean $(BENCHES:%=bench-%)

help: ## say what each word does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 14

# Done again only when the lock or the package's own description has changed.
.venv/ready: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and f"Perennial needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}. Name one with: make setup PYTHON=python3.12")'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(BIN)/python -c 'import uv' 2>/dev/null || $(BIN)/python -m pip install --quiet uv
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip install --quiet $(FIND_LINKS) -r requirements.lock
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

setup: .venv/ready ## install everything into .venv (quick when it is there)

demo: setup ## 2013 month by month: ask the service, watch, alarm, retrain, judge, promote, swap
	@$(BIN)/perennial tick flights --through 2013-12 --serve
	@$(BIN)/perennial report flights

test: setup ## the fast tests: no network, no servers
	@$(BIN)/python -m pytest

test-all: setup ## all tests, with the real tools
	@$(BIN)/python -m pytest -m "slow or not slow"

lint: setup ## style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# torch's local build and its CUDA companions depend on the machine, so the lock leaves them open.
lock: setup ## resolve the environment again: requirements.lock, and what serving needs of it
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	  --no-header --no-annotate $(FIND_LINKS) --extra dev pyproject.toml \
	  | grep -vE '^(nvidia-(cu|nccl|nvjitlink|nvshmem|nvtx)|cuda-|triton)' \
	  | sed -E 's/^torch==.*/torch==2.13.0/' | uniq > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	  --no-header --no-annotate $(FIND_LINKS) --constraint requirements.lock \
	  requirements-serve.in > requirements-serve.lock.new
	@mv requirements-serve.lock.new requirements-serve.lock

$(BENCHES:%=bench-%): bench-%: setup
	@$(BIN)/python -m benchmarks.$*

bench: $(BENCHES:%=bench-%) ## every figure beside its aim; exit 1 when one is missed
