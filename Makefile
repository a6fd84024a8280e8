# Two commands matter: `make demo` (see the method work) and `make test` (ruff and the fast tests).
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: demo test test-slow lint clean
demo: .venv/demo
	$(BIN)/fastdmt demo --run $(RUN)

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --editable . --constraint constraints.txt
	touch $@

.venv/test: .venv/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --editable '.[test]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv build *.egg-info
