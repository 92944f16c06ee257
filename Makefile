# The one vocabulary: README, CI and people call only these.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A container's usual setting, which has every command compile its libraries anew: 15 s for one that
# validates a batch, and 7 without.
unexport PYTHONDONTWRITEBYTECODE
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")
BENCHES := bench-quality bench-overhead bench-drift bench-serving bench-swap bench-soak bench-fuzz \
  bench-orchestration bench-train bench-fashion

.PHONY: help setup demo up down status test test-slow test-all lint lock bench clean fetch repro store compare \
  champion image smoke smoke-image push newest $(BENCHES)

help: ## say what each word does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 14

# Done again only when the lock or the package's own description has changed.
$(VENV)/ready: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and f"Perennial needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}. Name one with: make setup PYTHON=python3.12")'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -c 'import uv' 2>/dev/null || $(BIN)/python -m pip install --quiet uv
	@VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --quiet $(FIND_LINKS) -r requirements.lock
	@VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

setup: $(VENV)/ready ## install everything into .venv (quick when it is there)

demo: setup ## 2013 month by month: ask the service, watch, alarm, retrain, judge, promote, swap
	@$(BIN)/perennial tick flights --through 2013-12 --serve
	@$(BIN)/perennial report flights

up: setup ## MLflow, Airflow and the services on this machine: docs/stack.md
	@$(BIN)/perennial stack up

down: setup ## stop them, the last started first
	@$(BIN)/perennial stack down

status: setup ## say how each of them stands
	@$(BIN)/perennial stack status

test: setup ## the fast tests: no network, no servers
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Two files at a time, on however many cores: what is slow is mostly the start of real tools.
SLOW := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m

test-slow: setup ## the real tools: servers, kills, browsers; without the tests of a minute and more
	@$(SLOW) "slow and not long"

test-all: test ## every test there is
	@$(SLOW) slow

lint: setup ## style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint ops/docker/*.Dockerfile
	@$(BIN)/actionlint

# Continuous integration and delivery: .github/workflows calls only these, docs/delivery.md
TASK ?= flights
BASE ?= main
export TASK BASE REMOTE REGISTRY # read by the shell: what they hold is never run

fetch: setup ## take the data of this commit and of BASE from the folder REMOTE, made a DVC remote of this clone
	@test -n "$$REMOTE" || { echo "fetch: name a folder with: make fetch REMOTE=/somewhere" >&2; exit 2; }
	@mkdir -p "$$REMOTE"
	@dvc remote add --quiet --local --force --default folder "$$(realpath "$$REMOTE")"
	@dvc fetch --quiet --run-cache --all-commits || echo "fetch: what is not there yet is made by: make repro" >&2
	@dvc checkout --quiet --allow-missing

repro: setup ## run the stages whose code, settings, contract or data changed, and no others
	@dvc repro

store: setup ## put what was made into the remote that `make fetch` named
	@dvc push --quiet --run-cache

compare: setup ## this tree's metrics and plots against BASE, as Markdown: compare.md
	@$(BIN)/python -m ops.compare "$$BASE"

champion: setup ## the registry's champion of TASK; where it has none, this commit's model, judged first
	@$(BIN)/python -m ops.champion "$$TASK"

image: setup ## the champion's bento and image, tagged with model version and commit
	@$(BIN)/python -m ops.image "$$TASK" --registry "$$REGISTRY"

smoke: setup ## start the bento, ask it one question, hold its answer to its own model
	@$(BIN)/python -m ops.smoke "$$TASK"

smoke-image: setup ## the same of the image that `make image` built
	@$(BIN)/python -m ops.smoke "$$TASK" --image --registry "$$REGISTRY"

push: setup ## the image into REGISTRY
	@$(BIN)/python -m ops.image "$$TASK" --registry "$$REGISTRY" --push

newest: ## the newest releases that fit together, in .venv-newest, and the fast tests with them: newest.md
	@rm -rf .venv-newest
	@"$(PYTHON)" -m venv .venv-newest
	@.venv-newest/bin/python -m pip install --quiet uv
	@.venv-newest/bin/python -m ops.newest .venv-newest

# torch's local build and its CUDA companions depend on the machine, so the lock leaves them open.
lock: setup ## resolve the environment again: requirements.lock, and what serving needs of it
	@VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	  --no-header --no-annotate $(FIND_LINKS) --extra dev pyproject.toml \
	  | grep -vE '^(nvidia-(cu|nccl|nvjitlink|nvshmem|nvtx)|cuda-|triton)' \
	  | sed -E 's/^torch==.*/torch==2.13.0/' | uniq > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	  --no-header --no-annotate $(FIND_LINKS) --constraint requirements.lock \
	  requirements-serve.in > requirements-serve.lock.new
	@mv requirements-serve.lock.new requirements-serve.lock

$(BENCHES): bench-%: setup
	@$(BIN)/python -m benchmarks.$*

bench: $(BENCHES) ## every figure beside its aim; exit 1 when one is missed
