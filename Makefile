# make demo   train on a built-in text for two minutes, measure it, write with it
# make test   lint, types, import contracts, tests
# make wheel  a wheel for every Python of this platform, in dist/
# make stress slow tests of the promises, in hours; make stress NAME=kill runs one of them
# make minimums PYTHON=python3.10   the quick tests with the oldest versions of everything, in build/minimums
# make clients   charlm serve with llm and the lm-evaluation-harness, which are installed into build/clients
# make docs   write the generated parts of the documentation

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test wheel stress minimums clients docs clean

# pip constrains only what it installs here, not what it installs to build. So the build tools come first, and the build
# is not isolated. It also compiles only what changed since the last build.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard charlm/native/*.cpp charlm/native/*.h)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt scikit-build-core cmake ninja
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/charlm train --demo --time 2m
	$(BIN)/charlm eval
	$(BIN)/charlm generate --prompt "The " --length 600
	@echo "charlm is installed in $(VENV). To use it in this shell: . $(BIN)/activate"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist worksteal

wheel: $(STAMP)
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

stress: $(STAMP)
	cd tests && $(abspath $(BIN))/python -m stress $(NAME)

minimums:
	$(PYTHON) tests/minimums.py build/minimums

clients: $(STAMP)
	$(BIN)/python tests/clients.py build/clients

docs: $(STAMP)
	$(BIN)/python tests/test_docs.py

clean:
	rm -rf $(VENV) build dist charlm/native/*.so *.egg-info
