PYTHON ?= $(shell for v in python3.11 python3.12 python3; do command -v $$v >/dev/null && $$v -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$v && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .demo

.PHONY: demo test unit lint types bench chaos install servers clean

demo: $(VENV)/.installed
	DOCTORGEN_DATA_DIR=$(DEMO)/data $(BIN)/python -m doctor_image_gen.demo $(DEMO)

# What starts no server runs on two processors at once, a thread each: torch's own threads would be in each other's way.
test: $(VENV)/.tested servers lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/unit tests/engines
	$(BIN)/python -m pytest --ignore tests/unit --ignore tests/engines

unit: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 tests/unit

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

bench: $(VENV)/.tested servers
	$(BIN)/python -m bench

chaos: $(VENV)/.tested servers
	$(BIN)/python -m pytest -m chaos tests/chaos
	$(BIN)/python -m tests.chaos

servers:
	tests/servers/install.sh

install: $(VENV)/.installed

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name it with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# mediapipe's own list of requirements names jax and a second OpenCV, neither of which it needs here, so it is
# installed without it; requirements-portable.txt holds what it does need.
$(VENV)/.installed: pyproject.toml requirements-portable.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-portable.txt -e .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-portable-nodeps.txt
	touch $@

# The GPU engines' libraries, on a machine without a GPU: their code is tested there on tiny models.
$(VENV)/.tested: $(VENV)/.installed requirements-gpu.txt requirements-gpu-nodeps.txt requirements-convert.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-gpu.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-gpu-nodeps.txt \
		-r requirements-convert.txt
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache
