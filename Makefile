# On a fresh machine: `make demo`, `make test`. Python 3.11 or newer; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PLUGINS := $(sort $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))

.PHONY: demo test docs export clean

demo: $(STAMP)
	$(VENV)/bin/clfm demo

test: $(STAMP)
	$(RUN) tools/check.py

docs: $(STAMP)
	$(RUN) docs/make.py

export: $(STAMP)
	for project in . $(PLUGINS); do (cd $$project && "$(CURDIR)/$(VENV)/bin/nbdev-export") || exit 1; done

# The core's extras are requirements on the plugins; pip finds those in the folders when all are named in one command.
$(STAMP): constraints.txt settings.ini setup.py $(PLUGINS:%=%/pyproject.toml)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e ".[all,dev]" $(PLUGINS:%=-e %)
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build docs/pages *.egg-info plugins/*/build plugins/*/*.egg-info
