VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

DOCUMENTED := $(addprefix src/wafergpt/,api inference runs engines tasks train/run.py)

# Two at a time, one thread each: most of a test's time is a Python that starts and imports torch.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo check test coverage test-cerebras lint gpu bench

demo: $(VENV)/.demo
	$(BIN)/wafergpt demo

# Before each commit.
check: lint
	$(TESTS) -m "not cerebras and not gpu and not slow"

test: $(VENV)/.dev
	$(TESTS) -m "not cerebras"

# What the tests run of src, in the processes that they start too.
coverage: $(VENV)/.dev
	$(TESTS) -m "not cerebras and not gpu" --cov=src/wafergpt --cov-report=term:skip-covered --cov-fail-under=92

# Makes the environment of Cerebras' SDK where it is not there yet (6 GB).
test-cerebras: $(VENV)/.dev
	$(BIN)/wafergpt doctor --install-cerebras
	$(BIN)/python -m pytest -m cerebras

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint $(DOCUMENTED)

# The tests that need a GPU, then its speed beside Hugging Face's.
gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/train_throughput.py --device cuda --shapes S 111M --rounds 3 --steps 10
	$(BIN)/python -m benchmarks.decoding --device cuda

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/train_throughput.py

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
