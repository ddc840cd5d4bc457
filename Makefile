# `make demo` and `make test` need nothing but Python 3.11 or newer and pip.
PYTHON ?= python3
VENV ?= .venv

# jax for Python 3.12 and newer is newer than the last one for 3.11.
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; \
	print("constraints-py311.txt" if sys.version_info < (3, 12) else "constraints-py312.txt")')
BENCHMARKS = $(filter-out $(addprefix benchmarks/, \
	rounds.py torch_step.py device.py device_pack.py device_train.py pseudo_boxes.py), \
	$(wildcard benchmarks/*.py))
# A worker holds most of a gigabyte; the tests of one file share what they compiled.
PARALLEL = -q -n auto --maxprocesses=4 --dist=loadfile
INSTALLED = $(VENV)/installed
RUN = $(VENV)/bin/python

.PHONY: demo test campaign lint types bench notebooks docs install
.DELETE_ON_ERROR:

demo: install
	$(RUN) main.py demo

test: install
	$(RUN) -m pytest $(PARALLEL) $(PYTEST_ARGS)

# Commands killed, files damaged, odd input: see CONTRIBUTING.md.
campaign: install
	$(RUN) -m tests.campaign $(CAMPAIGN_ARGS)

lint: install
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: install
	$(RUN) -m mypy

# NBMAKE_ARGS=--overwrite stores what they show.
notebooks: install
	JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/compiled \
		JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2 \
		$(RUN) -m pytest -q -n 2 -p no:cacheprovider --override-ini=addopts= \
		--nbmake --nbmake-timeout=600 notebooks $(NBMAKE_ARGS)

# The documentation as a site: open site/index.html. Links that lead nowhere fail.
docs: install
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: install
	for file in $(BENCHMARKS); do $(RUN) $$file || exit 1; done

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints-py311.txt constraints-py312.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"delf_jax needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV) with $(CONSTRAINTS) (about a gigabyte, a minute or two)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
