# Two commands: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Two processes, as much of the time is waiting. A file's tests share what is dear to set up.
TESTING = -q -rs --durations=15 -n 2 --dist loadfile $(PYTEST)
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: $$($(PYTHON) --version) is too old or too new: name one of 3.11-3.13, as in make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[platform,test]'
	@touch $@

demo: $(READY)
	$(RUN) infra/demo.py

test: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest $(TESTING)

test-slow: $(READY)
	$(RUN) -m pytest $(TESTING) -m 'slow or not slow'

lint: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) build *.egg-info
