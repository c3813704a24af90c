# Every target sets up what it needs on a fresh machine: a virtual environment, the package, and nothing else.
# The first interpreter that runs and is new enough.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: quickstart docs test test-slow common-suite coverage style format release-check clean

quickstart: $(VENV)/installed
	$(BIN)/decodetr quickstart

# The documentation site into build/site, which opens without a server. A broken link or a page that is not listed fails.
# The API reference is read under the name of the package, whatever the checkout is called.
docs: $(VENV)/installed-docs $(VENV)/checked/decodetr
	PYTHONPATH=$(abspath $(VENV)/checked) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# One process a core, and one thread a process; the tests of a file stay together, because they share what it makes.
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: common-suite
	$(BIN)/python -m pytest -m slow

# The common model tests of the installed transformers, into the virtual environment.
common-suite: $(VENV)/installed-test
	$(BIN)/python tests/helpers/common_suite.py

# The tests of `make test`, and for each file how many of its lines they run.
coverage: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov

style: $(VENV)/installed-test $(VENV)/checked/decodetr
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV)/checked && ../bin/mypy --config-file decodetr/pyproject.toml --package decodetr

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is uploaded, made and looked at: contents, metadata, README, types, and use where no checkout is.
release-check: $(VENV)/installed-test
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/helpers/release.py check dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-docs: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@ $(VENV)/installed

$(VENV)/installed-test: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/installed

# The checkout under the name of the package, so that mypy finds what it imports of itself.
$(VENV)/checked/decodetr: $(VENV)/bin/python
	mkdir -p $(@D)
	ln -sfn $(CURDIR) $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .coverage decodetr-quickstart
