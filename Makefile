# The tasks of pixi.toml for machines without pixi: `make serve` and `make test` do all set-up themselves.
# Set MODEL to a checkpoint folder or hub id to use it instead of the default model.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL ?=
PROMPT ?= Hello
HOST ?=
PORT ?=
NEW_TOKENS ?= 128
MODEL_FLAG := $(if $(MODEL),--model "$(MODEL)")

.PHONY: help setup build serve generate chat test lint bench clean

help: ## Show the tasks
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## Make .venv with the mili command in it

$(STAMP): pyproject.toml
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@set -e; \
	if command -v uv >/dev/null; then \
	    test -x $(BIN)/python || uv venv --quiet --python '>=3.11' $(VENV); \
	    uv pip install --quiet --python $(BIN)/python -e '.[test]'; \
	else \
	    for python in python3 python3.13 python3.12 python3.11 none; do \
	        $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	    done; \
	    if [ $$python = none ]; then echo "MILI needs Python 3.11 or newer; none was found" >&2; exit 1; fi; \
	    test -x $(BIN)/pip || $$python -m venv $(VENV); \
	    $(BIN)/pip install -qq --disable-pip-version-check -e '.[test]'; \
	fi
	@touch $(STAMP)

build: setup ## Compile the kernels
	@mojo_kernels/build.sh >/dev/null

serve: build ## Serve the OpenAI-compatible API (MODEL=, HOST=, PORT=)
	@$(BIN)/mili serve $(MODEL_FLAG) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

generate: build ## Continue a prompt (PROMPT=, MODEL=)
	@$(BIN)/mili generate $(MODEL_FLAG) "$(PROMPT)"

chat: build ## Talk to the model in the terminal (MODEL=)
	@$(BIN)/mili chat $(MODEL_FLAG)

test: build lint ## Check the code and run every test
	@$(BIN)/python -m tests.mojo
	@$(BIN)/python -m pytest -q

lint: setup ## Check style and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

bench: build ## Measure the kernels and the whole model (MODEL=, NEW_TOKENS=)
	@$(BIN)/python tests/performance/benchmark_kernels.py
	@$(BIN)/python tests/performance/benchmark_e2e.py $(MODEL_FLAG) --new-tokens $(NEW_TOKENS)

clean: ## Remove what setup and the tests made
	rm -rf $(VENV) *.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis
