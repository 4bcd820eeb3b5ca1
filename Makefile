# Everything here works in a fresh clone; it needs Python 3.11 or newer and a package index.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More than there are processors, since most tests wait for something else half of the time.
PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2 + 1)
# Expanded where it is used: a target may have a number of its own.
TESTS = -m pytest --processes=$(PROCESSES)
# uv trusts the certificates that pip trusts.
export UV_SYSTEM_CERTS := 1
# Bytecode is kept, also where the environment asks for none: otherwise pytest rewrites and compiles all tests
# anew each time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo check test test-airflow-2 matrix smoke celery-test warehouses ui-test screenshots faults mutation bench lint docs format dist audit lock clean

demo: $(VENV)/installed  ## Watch a DAG refund orders at a local Talkable; with UI=1 in Airflow's pages
ifdef UI
	@$(BIN)/python scripts/demo_ui.py
else
	@$(BIN)/python scripts/demo.py
	@echo "  make demo UI=1            all of it in Airflow's pages, at an address to open"
endif

check: $(VENV)/installed  ## Check style and types, and run the tests that start no Airflow: for while one works
	@$(MAKE) --no-print-directory --jobs=2 lint test-without-airflow

.PHONY: test-without-airflow
# These wait even more, for patience to end above all.
test-without-airflow: PROCESSES = $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 4 + 1)
test-without-airflow: $(VENV)/installed
	# Types are checked by one process, which is to be done when the tests are.
	nice $(BIN)/python $(TESTS) -m "not airflow_process" --hypothesis-profile=quick

test: $(VENV)/installed  ## Run all tests
	$(BIN)/python $(TESTS)

test-airflow-2: $(VENV)-airflow-2/installed  ## Run all tests on the oldest Airflow that is supported
	$(VENV)-airflow-2/bin/python $(TESTS)

# Each version is a target of its own, so that `make -j2 matrix` runs two of them at a time.
MATRIX := $(addprefix matrix-,2.11 3.0 3.1 3.2 3.3 3.4)
SMOKE := $(addprefix smoke-,3.0 3.1 3.2 3.4)
.PHONY: $(MATRIX) $(SMOKE)

matrix: $(MATRIX)  ## Run all tests on each Airflow and Python of the matrix; takes hours
$(MATRIX): matrix-%: $(VENV)/installed
	$(BIN)/nox --tags tests-$*

smoke: $(SMOKE)  ## Run what differs between versions of Airflow on 3.0, 3.1, 3.2 and 3.4
$(SMOKE): smoke-%: $(VENV)/installed
	$(BIN)/nox --session "smoke(airflow-$*-python-3.11)"

celery-test: $(VENV)-celery/installed  ## Kill one of two Celery workers; needs redis-server on the PATH
	$(VENV)-celery/bin/python -m pytest tests/celery

warehouses: $(VENV)-warehouses/installed $(VENV)-bqemulator/installed  ## One suite on each warehouse, or what stands in for it
	BQEMULATOR=$(CURDIR)/$(VENV)-bqemulator/bin/python $(VENV)-warehouses/bin/python $(TESTS) tests/warehouses tests/sync/test_dialects.py

ui-test: $(VENV)/installed  ## Use Airflow's pages in the system's Chromium: connect, test, sync, look
	$(BIN)/python -m pytest tests/ui

screenshots: $(VENV)/installed  ## The same, and write the pictures in docs/images again
	mkdir -p docs/images
	UI_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/ui

lint: $(VENV)/installed  ## Check format, style, types, the direction of imports, words, Markdown and workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_words.py
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/pymarkdown scan $$(git ls-files '*.md')
	$(BIN)/zizmor --offline --persona=auditor --quiet .

docs: $(VENV)/installed  ## Build the pages into docs/_build/html; whatever is doubtful is an error, and so is a dead link
	AIRFLOW_HOME=$(CURDIR)/docs/_build/airflow $(BIN)/python -m sphinx -E -W --keep-going -n -q docs docs/_build/html
	$(BIN)/python -m pytest -q tests/html

faults: $(VENV)/installed  ## Break everything that can break, and see that nothing is lost; writes faults/RESULTS.md
	$(BIN)/python -m pytest faults

mutation: $(VENV)/installed  ## Break the code itself, thousands of times, and count what no test notices
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/mutmut run
	$(BIN)/mutmut results

bench: $(VENV)-bench/installed  ## Measure it beside what else sends refunds; writes benchmarks/RESULTS.md
	$(VENV)-bench/bin/python -m benchmarks

format: $(VENV)/installed  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: $(VENV)/installed  ## Build what is released, and check what is in it
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m pytest tests/release

.PHONY: release-check
release-check:  ## Do all that a release needs, short of publishing, in a clean clone of the newest commit
	rm -rf .release
	git clone --quiet . .release
	$(MAKE) -C .release PYTHON=$(PYTHON) lint docs dist
	cd .release && $(BIN)/python scripts/check_release.py

.PHONY: licences
licences: $(VENV)/installed  ## List the licences of all that the wheel brings in docs/reference/licences.md
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel
	WRITE_LICENCES=1 $(BIN)/python -m pytest tests/release/test_empty_airflow.py -k "licences and 3.3"

audit: dist $(VENV)-audit/installed  ## Look for known weaknesses in what the wheel needs, and list that in sbom.cdx.json
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-wheel
	$(BIN)/uv pip install --quiet --python $(VENV)-wheel/bin/python \
	  --constraint requirements/dev.txt dist/*.whl
	$(VENV)-audit/bin/cyclonedx-py environment --output-reproducible --output-file sbom.cdx.json $(VENV)-wheel
	$(BIN)/uv pip freeze --python $(VENV)-wheel/bin/python --exclude airflow-provider-talkable \
	  >$(VENV)-wheel/requirements.txt
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)-wheel/requirements.txt

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet

lock: $(VENV)/installed  ## Pin the development packages again
	for group in dev bench celery warehouses airflow-2.11 airflow-3.0 airflow-3.1 airflow-3.2 airflow-3.4; do \
	  $(LOCK) pyproject.toml --group $$group --output-file requirements/$$group.txt || exit 1; \
	done
	$(LOCK) --group audit --output-file requirements/audit.txt
	$(LOCK) --group bqemulator --output-file requirements/bqemulator.txt

clean:  ## Remove everything that was made here
	rm -rf $(VENV) $(VENV)-airflow-2 $(VENV)-audit $(VENV)-bench $(VENV)-bqemulator $(VENV)-celery $(VENV)-warehouses $(VENV)-wheel .nox .demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis mutants dist sbom.cdx.json docs/_build .release

# uv installs everything, itself excepted: it comes from the pins of the others.
$(VENV)/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 …"; exit 1; }
	@echo "Making the virtual environment $(VENV), with uv in it …"
	@$(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^uv==/,/[^\]$$/p' requirements/dev.txt >$(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.txt
	$(call install,$(VENV),requirements/dev.txt)

$(VENV)-airflow-2/installed: requirements/airflow-2.11.txt pyproject.toml $(VENV)/installed
	@$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python $(VENV)-airflow-2
	$(call install,$(VENV)-airflow-2,requirements/airflow-2.11.txt)

$(VENV)-celery/installed: requirements/celery.txt pyproject.toml $(VENV)/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-celery
	$(call install,$(VENV)-celery,requirements/celery.txt)

$(VENV)-warehouses/installed: requirements/warehouses.txt pyproject.toml $(VENV)/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-warehouses
	$(call install,$(VENV)-warehouses,requirements/warehouses.txt)

$(VENV)-bqemulator/installed: requirements/bqemulator.txt $(VENV)/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-bqemulator
	@$(BIN)/uv pip install --quiet --python $(VENV)-bqemulator/bin/python --require-hashes \
	  --requirement requirements/bqemulator.txt
	@touch $@

$(VENV)-bench/installed: requirements/bench.txt pyproject.toml $(VENV)/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-bench
	$(call install,$(VENV)-bench,requirements/bench.txt)

$(VENV)-audit/installed: requirements/audit.txt $(VENV)/installed
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-audit
	@$(BIN)/uv pip install --quiet --python $(VENV)-audit/bin/python --require-hashes --requirement requirements/audit.txt
	@touch $@

# What is pinned is installed, checked against its hashes, and nothing else: the package itself goes in
# without dependencies and is built by the pinned hatchling. The list of what was installed is left out.
define install
	@echo "Installing the $$(grep -c '^[^ ]*==' $(2)) packages of $(2) …"
	@$(BIN)/uv pip install --python $(1)/bin/python --require-hashes --requirement $(2) 2>&1 | \
	  sed -u '/^ [-+~] /d'
	@$(BIN)/uv pip install --quiet --python $(1)/bin/python --no-deps --no-build-isolation --editable .
	@touch $(1)/installed
endef
