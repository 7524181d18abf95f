# make demo | install | lint | test | test-all. TORCH_INDEX=URL takes PyTorch from another wheel index.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_INDEX ?=
TORCH := "torch>=2.9,<2.14"

.PHONY: demo install lint test test-all clean

demo: install
	$(BIN)/malmoi demo

install: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) $(TORCH) --index-url $(TORCH_INDEX))
	$(PIP) -e ".[dev]"
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

test-all: lint
	$(BIN)/pytest -m "" --hypothesis-profile=random

clean:
	rm -rf .venv build dist
