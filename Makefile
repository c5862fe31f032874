# The project's verbs. Each does its own set-up in .venv, from a bare Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lint types test bench clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types of the package as a wheel installs it, so that packaging is checked too.
types: .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/wheel .
	cd .venv && MYPYPATH=wheel bin/mypy --strict -p ds_compiler.ir -p ds_compiler.ops -p ds_compiler.backends.loops

test: .venv/installed
	$(BIN)/python -m pytest

bench: .venv/installed
	$(BIN)/python -m bench.gemm
	$(BIN)/python -m bench.conv

clean:
	rm -rf .venv build
