VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-cerebras lint gpu bench

demo: $(VENV)/.demo
	$(BIN)/wafergpt demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not cerebras"

# Makes the environment of Cerebras' SDK where it is not there yet (6 GB).
test-cerebras: $(VENV)/.dev
	$(BIN)/wafergpt doctor --install-cerebras
	$(BIN)/python -m pytest -m cerebras

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/train_throughput.py --device cuda

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
