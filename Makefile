# Two commands do everything on a fresh machine with Python ≥ 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# faiss-cpu or faiss-gpu, never both: `make demo EXTRA=gpu` where there is a CUDA GPU
EXTRA ?= cpu
# Processes that share the tests; each computes with one thread
JOBS ?= auto
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n $(JOBS) --maxprocesses 4 --durations=10
BIN := $(VENV)/bin
READY := $(VENV)/.pellucid-installed

.DEFAULT_GOAL := help
.PHONY: help install demo quick test test-bf16 test-slow lint types layers check smoke clean

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Pellucid needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12 …"; exit 2; }
	@echo "installing into $(VENV) (about 6 GB, most of it torch) …"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRA),dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA),dev]'; \
	fi
	@touch $@

install: $(READY)  ## create .venv and install Pellucid with what its tests need

demo: $(READY)  ## write a phantom cohort and run everything on it
	$(BIN)/pellucid demo demo

quick: $(READY)  ## unit tests without whole studies (about two minutes on two cores)
	$(PYTEST) -m "not long and not slow and not gpu"

test: $(READY)  ## all tests but the slow ones (about eight minutes on two cores)
	$(PYTEST)

test-bf16: $(READY)  ## the few tests that depend on the number type, in bfloat16 (emulated where need be)
	PELLUCID_PRECISION=bfloat16 $(PYTEST) -m 'number_type and not slow and not gpu'

test-slow: $(READY)  ## the tests that take a minute or more each
	$(PYTEST) -m slow

lint: $(READY)  ## ruff: format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

layers: $(READY)  ## explore → probes | pretrain → embed → cohort
	$(BIN)/lint-imports

check: lint types layers test  ## all of the above but the slow tests

smoke: $(READY)  ## build the wheel and use it in a fresh environment, from another folder
	BIN=$(BIN) bash tests/smoke_wheel.sh

clean:  ## remove what was built, but not .venv
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
