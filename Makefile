# make demo           the main job on synthesized speech: train, distill, prune, quantize, measure
# make demo SMOKE=1   the same in about a minute: shows that everything runs, its numbers mean nothing
# make test           the whole test suite
# make check          ruff and mypy
#
# Everything is installed into .venv by the first of them and kept; `rm -r .venv` starts again.

PYTHON ?= python3
VENV ?= .venv
# By exact version and before everything else: a range takes whatever build the package index prefers,
# several gigabytes of CUDA libraries among them. For another build: make demo TORCH=torch==2.12.0
TORCH ?= torch==2.13.0

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
SOURCES := setup.cfg pyproject.toml $(wildcard setup.py asr_compress/runtime/native/*)

.PHONY: demo test check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(PY) -m asr_compress demo $(if $(SMOKE),--smoke)

test: $(VENV)/.installed
	$(PY) -m pytest $(PYTEST)

check: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	@echo "Installing asr_compress with all that training, the demo and the tests need, and building its engine ..."
	$(PIP) --editable '.[train,demo,dev]'
	@touch $@

$(VENV)/.torch: | $(PY)
	@echo "Installing $(TORCH) (a few hundred megabytes) ..."
	$(PIP) '$(TORCH)'
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "Creating $(VENV) ..."
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info
