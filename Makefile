# Two commands serve a newcomer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo stop test check unit setup schemas clean

setup: $(VENV)/.ready

COMPILED := $(wildcard platform/raymill/data/*.c platform/raymill/data/*.cc platform/raymill/data/*.hpp)

$(VENV)/.ready: pyproject.toml setup.py constraints.txt $(COMPILED)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Raymill needs Python 3.11 or newer, {sys.executable} is {v.major}.{v.minor}; choose one with: make PYTHON=python3.11 ...")'
	@echo "installing into $(VENV); the first time this takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

# Set up, run prepare, train, publish and serve on real flights, show the answer. Leaves the service up.
demo: setup
	@$(BIN)/python examples/flights/demo.py

# Stop the service and the Ray that `make demo` or `raymill up` started, and nothing else.
stop:
	@$(BIN)/raymill down

# Everything: static checks, then unit, conformance, fault and cluster tests.
test: check
	@$(BIN)/pytest tests/unit tests/conformance -n 2 -q
	@$(BIN)/pytest tests/faults tests/cluster/test_readme.py -q  # the README's cluster runs before the tests' own
	@$(BIN)/pytest tests/cluster -n 2 --dist loadfile -q --ignore tests/cluster/test_readme.py

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: setup
	@$(BIN)/pytest tests/unit -n 2 -q

# Write the JSON Schemas of the specs; a test holds them current.
schemas: setup
	@$(BIN)/python scripts/schemas.py

clean:
	rm -rf $(VENV) build *.egg-info platform/*.egg-info
