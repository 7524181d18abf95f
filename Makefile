# make demo | foundation | install | lint | test | test-all. TORCH_INDEX=URL takes PyTorch from another wheel index.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_INDEX ?=
TORCH := "torch>=2.9,<2.14"

# PyTorch, oneDNN and malmoi as on a processor with no more than AVX2, which most people have.
AVX2_ONLY := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

.PHONY: demo foundation install lint test test-all clean

demo: install
	$(BIN)/malmoi demo

# The models that come with malmoi, made again: hours. A stopped one goes on.
foundation: install
	$(BIN)/python -m malmoi.foundation

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
	$(AVX2_ONLY) $(BIN)/pytest

clean:
	rm -rf .venv build dist
