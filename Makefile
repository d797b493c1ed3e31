# make demo | test | test-all | lint | bench | validation | docs | look | clean.  Each sets up .venv by itself: with uv where it is found, else with venv and pip.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.docs
UV := $(or $(shell command -v uv 2>/dev/null),.venv-uv/bin/uv)
JOBS ?= 2

.PHONY: help demo test test-all test-floors lint bench validation docs look clean
help:
	@echo "make demo      a density flowing over a double well and over a real network's plane, into out/"
	@echo "make test      the test suite"
	@echo "make test-all  the same with the long studies"
	@echo "make test-floors  the test suite with the oldest versions allowed"
	@echo "make lint      ruff and pyright"
	@echo "make bench     the benchmark tables (minutes)"
	@echo "make validation  theory against real SGD: all studies, their figures and table (20 minutes)"
	@echo "make docs      the documentation site, into site/; any warning and any broken link is an error"
	@echo "make look      its pages in headless Chromium, screenshots into out/look"

$(STAMP): pyproject.toml
	@sh .ci/setup "$(PYTHON)"
	@touch $(STAMP)

$(DOCS): pyproject.toml $(STAMP)
	@sh .ci/setup "$(PYTHON)" docs
	@touch $(DOCS)

demo: $(STAMP)
	$(BIN)/rxjax flow double-well --out out --animation
	$(BIN)/rxjax flow digits --out out

# Bytecode is kept even where the environment forbids it: without, each process compiles all that it imports anew, 8 s.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) -m "" --optimize

# Only uv finds the oldest versions: where there is none, it gets an environment of its own.
.venv-uv/bin/uv:
	"$(PYTHON)" -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# The oldest versions that pyproject.toml allows, where old packages warn about newer ones.
test-floors: BIN := .venv-floors/bin
test-floors: $(UV)
	$(UV) venv --quiet --allow-existing --python "$(PYTHON)" .venv-floors
	$(UV) pip install --quiet --python $(BIN)/python --resolution lowest-direct --group test --editable .
	$(PYTEST) -W ignore::DeprecationWarning

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The optimizer study takes hours and keeps its results: here only its tables are written again.
bench: $(STAMP)
	@sh benchmarks/setup_peers "$(PYTHON)"
	$(BIN)/python benchmarks/flow.py
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/rates.py
	$(BIN)/python benchmarks/measure.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/optimizers.py --report

validation: $(STAMP)
	for study in validation/[0-9]*.py; do $(BIN)/python $$study || exit 1; done
	$(BIN)/python validation/report.py

# The switch silences a note of the theme's makers about the future of MkDocs.  (--quiet would silence --strict too.)
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/tools/links.py site

look: docs
	$(BIN)/python docs/tools/look.py site out/look

clean:
	rm -rf .venv .venv-floors .venv-uv out site .pytest_cache .ruff_cache .hypothesis dist
