# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python

# Tests start many processes, each of which imports what others have compiled.
export PYTHONDONTWRITEBYTECODE =
READY   = $(VENV)/.ready

.PHONY: help demo test check docs clean install

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(READY)  ## set up .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "kn_sweeps needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## knowledge neurons and ROME on minimal pairs, then the comparison table and the report
	$(RUN) launch.py -m method=kn,rome dataset=blimp
	@$(RUN) -m analysis.table results/default
	@$(RUN) -m analysis.report results/default

# Four processes also on two cores: Slurm's and the dashboards' tests mostly wait.
test: $(READY)  ## the whole test suite
	$(RUN) -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(READY)  ## lint, formatting and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(READY)  ## the documentation as a site, in site/; links are checked
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict # not --quiet: it counts no warnings
	@echo "site/index.html; with its search: $(RUN) -m http.server --directory site"

clean:  ## remove .venv (results stay)
	rm -rf $(VENV)
