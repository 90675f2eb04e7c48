# The tasks of pixi.toml for machines without pixi: `make serve` and `make test` do all set-up themselves.
# Set MODEL to a checkpoint folder, GGUF file or hub id to use it instead of the default model.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRAIN_STAMP := $(VENV)/.installed-train
MODEL ?=
REFERENCE ?=
CANDIDATE ?=
PORT ?=
PEERS ?=
BENCH_GPU ?=
NEW_TOKENS ?= 128
# Shells and compilers' environments export these two with meanings of their own: only `make HOST=...` counts.
HOST :=
PROMPT := Hello

# The tasks read them as shell variables, so that spaces, quotes and dollars in them are plain text.
override PROMPT := $(value PROMPT)
export MODEL HOST PORT PROMPT REFERENCE CANDIDATE
MODEL_FLAG = $${MODEL:+--model "$$MODEL"}

.PHONY: help setup build serve generate chat test test-isas test-neon lint bench bench-peers quality load-test fuzz flood
.PHONY: gpu-compile gpu-host bench-gpu screenshots clean
.PHONY: train-setup train-tokenizer train-data train evaluate

help: ## Show the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make .venv with the mili command in it
	@:

$(STAMP): pyproject.toml
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@set -e; \
	if command -v uv >/dev/null; then \
	    test -x $(BIN)/python || { rm -rf $(VENV); uv venv --quiet --python '>=3.11,<3.15' $(VENV); }; \
	    uv pip install --quiet --python $(BIN)/python -e '.[test]'; \
	else \
	    for python in python3 python3.14 python3.13 python3.12 python3.11 none; do \
	        $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && break; \
	    done; \
	    if [ $$python = none ]; then echo "MILI needs Python 3.11 to 3.14; none was found" >&2; exit 1; fi; \
	    $(BIN)/python -m pip --version >/dev/null 2>&1 || $$python -m venv --clear $(VENV); \
	    $(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[test]'; \
	fi
	@touch $(STAMP)

build: setup ## Compile the kernels
	@mojo_kernels/build.sh >/dev/null

serve: build ## Serve the OpenAI-compatible API (MODEL=, HOST=, PORT=)
	@$(BIN)/mili serve $(MODEL_FLAG) $${HOST:+--host "$$HOST"} $${PORT:+--port "$$PORT"}

generate: build ## Answer a question (PROMPT=, MODEL=)
	@$(BIN)/mili generate --chat $(MODEL_FLAG) -- "$$PROMPT"

chat: build ## Talk to the model in the terminal (MODEL=)
	@$(BIN)/mili chat $(MODEL_FLAG)

test: setup ## Check the code and run every test
	@$(MAKE) --no-print-directory -j 2 build lint
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-isas: build ## The tests of linear layers on every instruction set that this CPU has
	@TEST_ALL_ISAS=1 $(BIN)/python -m pytest -q tests/unit/kernels/test_linear.py tests/unit/kernels/test_quantized_linear.py

test-neon: setup ## The kernels' tests on an emulated Arm CPU (needs QEMU and a cross linker: says what to install)
	@$(BIN)/python -m tests.neon

lint: setup ## Check style and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

bench: build ## Measure the kernels and the whole model (MODEL=, NEW_TOKENS=)
	@$(BIN)/python tests/performance/benchmark_kernels.py
	@$(BIN)/python tests/performance/benchmark_e2e.py $(MODEL_FLAG) --new-tokens $(NEW_TOKENS)

quality: build ## Compare the answers of two settings of a model (REFERENCE=, CANDIDATE=, as in "model=DIR dtype=float32")
	@$(BIN)/python -m tests.performance.quality --reference $$REFERENCE --candidate $$CANDIDATE

screenshots: build ## Take the pictures of docs/images (needs Chromium)
	@$(BIN)/python -m tests.page.screenshots

bench-peers: build ## MILI beside llama.cpp, OpenVINO and transformers, which it sets up (PEERS="--only ... --rounds ...")
	@$(BIN)/python -m tests.performance.peers $(PEERS)

gpu-compile: build ## Compile kernels and whole models for GPUs that are not here, and check the assembly (long)
	@$(BIN)/python -m tests.ptx.check --shape tiny 0.6B 8B

gpu-host: build ## What the GPU's host side asks of a driver, on a pretended one (needs cc)
	@$(BIN)/python -m tests.driver

bench-gpu: build ## MILI on a GPU beside torch, transformers and MAX's ops (MODEL=, BENCH_GPU="--only ... --json ...")
	@$(BIN)/python -m tests.performance.benchmark_gpu $${MODEL:+--models "$$MODEL"} $(BENCH_GPU)

load-test: build ## 1,000 requests at 50 and at 256 at once, then with half the clients leaving (MODEL=)
	@$(BIN)/python tests/performance/load_test.py $(MODEL_FLAG) --concurrent 50
	@$(BIN)/python tests/performance/load_test.py $(MODEL_FLAG) --concurrent 256
	@$(BIN)/python tests/performance/load_test.py $(MODEL_FLAG) --concurrent 50 --leave 0.5
	@$(BIN)/python tests/performance/load_test.py $(MODEL_FLAG) --concurrent 256 --leave 0.5

fuzz: build ## 20,000 hostile requests at the server, and what schemathesis makes of its OpenAPI document
	@$(BIN)/python tests/performance/fuzz.py

flood: build ## Ten times as many requests at once as the server has room for
	@$(BIN)/python tests/performance/flood.py

train-setup: $(TRAIN_STAMP)
	@:

$(TRAIN_STAMP): $(STAMP)
	@if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python -e '.[train]'; \
	else $(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[train]'; fi
	@touch $(TRAIN_STAMP)

train-tokenizer: setup ## Train the tokenizer of models/mili-tiny
	@$(BIN)/python -m models.train.train_tokenizer

train-data: setup ## Make its training data
	@$(BIN)/python -m models.train.make_data

train: train-setup ## Train its weights, on from the last checkpoint if there is one (needs PyTorch: installs it)
	@$(BIN)/python -m models.train.train

evaluate: build ## Its accuracy on held-out prompts, per skill
	@$(BIN)/python -m models.train.evaluate

clean: ## Remove what setup and the tests made
	rm -rf $(VENV) *.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis
