# make demo: four pictures in outputs/.  make test: the test suite.  Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := models image_optimization workbench activation_maximization style_transfer

.PHONY: demo test lint bench gallery docs clean

demo: .venv/installed
	$(BIN)/dream units --layer pool2 --output outputs/filters.png --overwrite
	$(BIN)/dream units --layer hidden --units 0-8 --output outputs/neurons.png --overwrite
	$(BIN)/dream digits --output outputs/digits.png --overwrite
	$(BIN)/stylize "$$($(BIN)/python benchmarks/sample_photo.py)" --style stained-glass --style-weight 3 --size 384 --output outputs/stylized.png --overwrite

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .mypy_path/dreamgram && ln -sfn $(CURDIR)/dreamgram/* $(addprefix $(CURDIR)/,$(PACKAGES)) .mypy_path/dreamgram
	$(BIN)/mypy

# The table of docs/benchmarks.md, in less than half an hour; prints what changed.
bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.table

# Every picture of the README.
gallery: .venv/installed-dev
	$(BIN)/python benchmarks/gallery.py
	$(BIN)/python -m benchmarks.comparison

# The tables of all options, in docs/options.md, and the types of keyword arguments, in style_transfer/keywords.py.
docs: .venv/installed
	$(BIN)/python docs/make_options.py

clean:
	rm -rf .venv .mypy_path .hypothesis build dist .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Dreamgram needs Python 3.10 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed
