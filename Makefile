# Every target sets up what it needs in .venv by itself; a python3 of version 3.11 or newer has to be there.
# PYTHON=python3.12 chooses another one. ARGS=… is handed on: make test ARGS="tests/unit -k digest".

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Tests that share nothing run in a process for each core.
PARALLEL := -n logical --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Files that say: the package alone, or also a developer's tools, or also a fuzzer, are installed as the two files below
# ask.
PACKAGE := $(VENV)/package.stamp
TOOLS := $(VENV)/tools.stamp
FUZZER := $(VENV)/fuzzer.stamp

.DEFAULT_GOAL := help
.PHONY: help walkthrough test quick test-all live soak fuzz guards cassettes notebooks browser lint words types docs constraints clean

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

walkthrough: $(PACKAGE)  ## the redis walkthrough, replayed: needs no network once set up
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/walkthrough.sh

quick: $(TOOLS)  ## the unit tests without those marked slow, in a minute
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" tests/unit $(ARGS)

test: $(TOOLS)  ## the unit, replay and notebook tests, on this Python
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	@echo "Left out: the live tests, which need root and Debian's packages (make live)," \
		"and other Pythons (make test-all)."

test-all: $(TOOLS)  ## the same tests on every Python that is installed, and on the oldest dependencies
	PYENV_VERSION="$$(pyenv versions --bare 2>/dev/null | paste -s -d : -)" $(BIN)/python -m nox $(ARGS)

live: $(TOOLS)  ## the tests against a real registry on this machine (see tests/live/README.md)
	$(BIN)/python tests/live/stack.py run -- $(BIN)/python -m pytest tests/live $(ARGS)

soak: $(TOOLS)  ## what takes long: large transfers over slow, cut and encrypted connections, surveys, 200 kills; with figures
	$(BIN)/python -m tests.benchmarks.kills 200
	$(BIN)/python -m tests.benchmarks.store
	$(BIN)/python -m tests.benchmarks.pull
	$(BIN)/python -m tests.benchmarks.push
	$(BIN)/python -m tests.benchmarks.copy
	$(BIN)/python -m tests.benchmarks.survey
	$(BIN)/python -m tests.benchmarks.parquet
	$(BIN)/python tests/live/stack.py run -- $(BIN)/python -m tests.benchmarks.transfer $(ARGS)

fuzz: $(FUZZER)  ## every parser, an hour in all (ARGS="--seconds=60 -k link"); needs Linux on x86-64
	$(BIN)/python -m pytest tests/fuzz --seconds=3600 $(ARGS)

guards: $(TOOLS)  ## take out each guard of docs/security.md in turn: its tests have to fail
	$(BIN)/python -m pytest tests/guards $(ARGS)

cassettes: $(TOOLS)  ## record the cassettes anew from the live stack, and write what the notebooks show then
	$(BIN)/python tests/live/stack.py run -- \
		$(BIN)/python -m pytest tests/replay -m vcr --record-mode=rewrite $(ARGS)
	$(BIN)/python tests/notebooks/execute.py

notebooks: $(TOOLS)  ## execute the notebooks and compare what they show with what is committed
	$(BIN)/python -m pytest $(PARALLEL) tests/notebooks $(ARGS)

browser: $(TOOLS)  ## the notebooks and the explorer in JupyterLab, seen by Chromium (Debian's package)
	$(BIN)/python -m pytest tests/browser $(ARGS)

lint: $(TOOLS)  ## ruff: rules and format
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

words: $(TOOLS)  ## the words of docstrings, messages and documentation (see docs/contributing/style.md)
	$(BIN)/python .ci/words.py

types: $(TOOLS)  ## mypy, strict; and the examples of the documentation, by mypy and pyright (needs node)
	$(BIN)/python -m mypy
	$(BIN)/python .ci/examples.py

docs: $(TOOLS)  ## the documentation, as HTML in docs/_build
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build
	$(BIN)/python -m pytest tests/site

constraints: $(TOOLS)  ## pin every dependency anew, in constraints.txt
	UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip compile --quiet --upgrade --universal --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --python-version 3.11 --all-extras --group dev --group fuzz \
		pyproject.toml --output-file constraints.txt

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) .nox .fuzz docs/_build docs/jupyter_execute dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; \
		exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$("$(PYTHON)" --version 2>&1) is too old: distsdk needs 3.11 or newer." \
			"Install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments with pip in them (no ensurepip)." \
			"On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(PACKAGE): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[replay]'
	@touch $@

# Dependency groups need a newer pip than some Pythons bring along.
$(TOOLS): $(PACKAGE)
	$(PIP) install --quiet --constraint constraints.txt 'pip>=25.1'
	$(PIP) install --quiet --constraint constraints.txt --group dev
	@touch $@

$(FUZZER): $(TOOLS)
	$(PIP) install --quiet --constraint constraints.txt --group fuzz
	@touch $@
