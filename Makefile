# Two commands for a fresh machine: `make demo` and `make test`. Needs Python >= 3.11 and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

LOWER := .venv-lower

.PHONY: help env test lint types unit slow gpu lower demo clean

help:
	@echo "make demo   environment, then on embedded data a teacher, DearKD, DeiT, a plain ViT, images and a data-free student; one page"
	@echo "make test   environment, then lint, types and tests"
	@echo "make slow   the tests that take minutes"
	@echo "make gpu    the tests that need a CUDA device"
	@echo "make lower  the tests with every dependency at its lower bound, in an environment of its own"
	@echo "make clean  remove the environment and what tools left behind (runs/ stays)"

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "dearkd needs Python >= 3.11; name one with make PYTHON=python3.12"; exit 2; }
	@echo "installing into $(VENV)/: torch and what it needs are a download of gigabytes, so this takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -n 2

slow: $(READY)
	$(BIN)/python -m pytest -m slow

gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

lower: $(READY)
	$(PYTHON) -m venv --clear $(LOWER)
	$(BIN)/python scripts/lower_bounds.py > $(LOWER)/lower.txt
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWER)/lower.txt -e '.[dev]'
	$(LOWER)/bin/python -m pytest -n 2

demo: $(READY)
	$(BIN)/python scripts/demo.py

clean:
	rm -rf $(VENV) $(LOWER) .pytest_cache .mypy_cache .ruff_cache
