# Two commands do all set-up: `make demo` and `make test`. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint benchmark clean

demo: .venv/demo-installed
	$(BIN)/tame-deploy export --backbone demo --output build/demo --overwrite
	$(BIN)/tame-deploy evaluate build/demo --data demo-held-out:300 --metrics ad-ic,localisation,entropy --output build/demo-scores --overwrite
	$(BIN)/tame-deploy explain build/demo tame_deploy/data/pictures --output build/demo-explained --overwrite --open

test: lint
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: .venv/test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: .venv/test-installed
	$(BIN)/python benchmarks/fusion.py
	$(BIN)/python benchmarks/footprint.py
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf build .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo-installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --editable '.[cpu,export,evaluate]'
	touch $@

.venv/test-installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --editable '.[cpu,openvino,export,train,evaluate,quantize,tensorrt-rtx,video,parquet,serve,client,traces,dev]'
	touch $@
