# The project's verbs. Each does its own set-up in .venv, from a bare Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint types conformance bench docs clean

help:
	@echo "make demo    read a page of text with two networks, compiled here"
	@echo "make test    all tests that do not take minutes"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy --strict and the import directions, on the wheel"
	@echo "make conformance  ONNX's backend test suite: passed, failed and excluded cases of each group (5 minutes)"
	@echo "make bench   every model against onnxruntime; writes bench/RESULTS.md (an hour)"
	@echo "make docs    the reference pages that are made from the code, in docs/reference"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

demo: .venv/installed
	$(BIN)/dsc demo

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package as a wheel installs it, so that packaging is checked too; only there do all rooms lie in one folder,
# which the import checker needs.
types: .venv/installed
	rm -rf .venv/wheel
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/wheel .
	cd .venv && MYPYPATH=wheel bin/mypy --config-file ../pyproject.toml --strict -p ds_compiler
	cd .venv && PYTHONPATH=wheel bin/lint-imports --config ../pyproject.toml --no-logo

test: .venv/installed
	$(BIN)/python -m pytest

conformance: .venv/installed
	$(BIN)/python -m tests.conformance.sweep --write

# The models that are exported from transformers need torch.
bench: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,torch]"
	$(BIN)/python -m bench.run

docs: .venv/installed
	$(BIN)/python -m docs.make_reference

clean:
	rm -rf .venv build
