# make demo   train on a built-in text for two minutes, measure it, write with it
# make test   lint, types, import contracts, tests
# make stress slow tests of the promises, in hours; make stress NAME=kill runs one of them
# make docs   write the generated parts of the documentation

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test stress docs clean

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard charlm/native/*.cpp charlm/native/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/charlm train --demo --time 2m
	$(BIN)/charlm eval
	$(BIN)/charlm generate --prompt "The " --length 600

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist worksteal

stress: $(STAMP)
	cd tests && $(abspath $(BIN))/python -m stress $(NAME)

docs: $(STAMP)
	$(BIN)/python tests/test_docs.py

clean:
	rm -rf $(VENV) build *.egg-info
