# Every path here is relative, and every program is started as `.venv/bin/python -m NAME`: so a space in the path of this
# folder does no harm (the scripts in .venv/bin name their interpreter by its absolute path).

PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python
READY := .venv/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check bench clean again

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile
	@echo "  PYTHON=python3.12 chooses the interpreter of a new environment; ARGS='-k rows -x' goes to pytest, ARGS='--only sync_cost' to bench."

setup: $(READY)  ## make .venv and install the package, the lab and the tools, at the versions of constraints.txt

demo: $(READY)  ## compare mini-batch, local and post-local SGD on the digits that come with scikit-learn
	@$(PY) -m localsgd compare digits-mlp

test: $(READY)  ## run the tests, the examples in docstrings, and those of README.md and docs/
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)  ## check format, lint, types, layers, docstrings, sizes and names
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo
	$(PY) -m pytest -q tests/architecture

bench: $(READY)  ## run every script of benchmarks/ in full, into one dated report (hours; leave the machine alone meanwhile)
	@$(PY) benchmarks/_bench.py $(ARGS)

clean:  ## remove caches and build products; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# READY is written last, so an interrupted installation is taken up again. It holds the folder that it was written in: the
# environment of a folder that was renamed or copied still points at the old one, and is installed again. So is one whose
# Python differs from a PYTHON that was asked for by name.
ifneq ($(shell cat $(READY) 2>/dev/null),$(shell pwd -P))
$(READY): again
endif
ifneq ($(origin PYTHON),file)
VERSION := -c 'import sys; print(sys.version)'
ifneq ($(shell $(PY) $(VERSION) 2>/dev/null),$(shell "$(PYTHON)" $(VERSION) 2>/dev/null))
$(READY): again
REMAKE := false &&
endif
endif

$(READY): pyproject.toml constraints.txt
	@rm -f $(READY)
	@$(REMAKE) $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo 'localsgd needs Python 3.11 or newer, which "$(PYTHON)" is not; name one: make setup PYTHON=python3.12' >&2; \
	    exit 1; }; \
	  echo '"$(PYTHON)" makes .venv'; \
	  "$(PYTHON)" -m venv --clear .venv; }
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip
	$(PY) -m pip install -c constraints.txt --build-constraint constraints.txt -e '.[lab]' --group dev
	@pwd -P > $(READY)
