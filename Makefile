# The commands of the project, the same on a laptop and in CI. The first one installs everything into .venv.
#
#   make map        render the California poppy: a first map, some minutes after cloning
#   make test       every test but the slow ones        make test-slow   the slow ones
#   make check      format, lint, types, import order   make format      put format and lint right
#   make serve      the web map and tiles on localhost  make bench       benchmarks, a JSON line each
#   make web        build the web page (needs Node.js)  make screenshots the pictures in docs, anew
#   make docs       the pages of docs, as HTML      make linkcheck   asks their links to other sites (network)
#   make notebooks  run the tutorials, copies with outputs in docs/tutorials
#   make bundle     re-make everything shipped in geomap/bundle from $(SHARED)
#
# On Linux, pip's own torch brings CUDA. For the small CPU build:
#   make map PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
SHARED ?= ../shared/data
SPECIES ?= Eschscholzia californica
PIP_FLAGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := map
.PHONY: map test test-slow check format serve web bundle bench browser screenshots docs linkcheck notebooks

map: .venv/.core
	$(BIN)/python -m geomap.render --species "$(SPECIES)" --out maps --overwrite
	@echo "Your map: $(CURDIR)/$$(ls -t maps/*/*.tif | head -n 1)"

test: .venv/.dev web browser
	$(BIN)/pytest

test-slow: .venv/.dev web browser
	$(BIN)/pytest -m slow --timeout=1800

check: .venv/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

serve: .venv/.serve web
	$(BIN)/python -m tiles

web: tiles/static/manifest.json

notebooks: .venv/.dev
	$(BIN)/python docs/run_notebooks.py

# For what is made of the executed copies: a notebook is run again only when it changed.
docs/tutorials/%.ipynb: notebooks/%.ipynb docs/run_notebooks.py | .venv/.dev
	$(BIN)/python docs/run_notebooks.py $*

screenshots: .venv/.dev web browser
	$(BIN)/python docs/screenshots/make.py

# Without network: notebooks that changed are executed first, every warning is an error, every link is followed.
TUTORIALS := $(patsubst notebooks/%,docs/tutorials/%,$(wildcard notebooks/*.ipynb))
docs: .venv/.dev $(TUTORIALS)
	$(BIN)/python -m sphinx -b html -n -W --keep-going -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html
	@echo "Open $(CURDIR)/docs/_build/html/index.html"

linkcheck: .venv/.dev $(TUTORIALS)
	$(BIN)/python -m sphinx -b linkcheck -n docs docs/_build/linkcheck

bundle: .venv/.core
	$(BIN)/python -m geomap.bundle --shared $(SHARED)

bench: .venv/.dev
	@set -e; for program in benchmarks/*.py; do $(BIN)/python $$program; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "geomap needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps: a package list is installed anew only when pyproject.toml changed. torch and torchvision are resolved together
# with all the rest; installed one after the other, pip may swap the CPU build of torch for the one with CUDA.
.venv/.core: pyproject.toml | $(BIN)/python
	$(BIN)/pip install $(PIP_FLAGS) -e .
	@touch $@

.venv/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/pip install $(PIP_FLAGS) -e ".[serve]"
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install $(PIP_FLAGS) -e ".[dev,serve,notebooks,docs]"
	@touch $@ .venv/.core .venv/.serve

# The page is built anew when its packages or its sources changed; manifest.json is the last file of a build.
WEB := tiles/web
tiles/static/manifest.json: $(WEB)/node_modules/.stamp $(WEB)/build.js $(wildcard $(WEB)/build-*.js $(WEB)/src/*)
	cd $(WEB) && npm run --silent build

$(WEB)/node_modules/.stamp: $(WEB)/package-lock.json $(WEB)/package.json
	@command -v npm >/dev/null || { \
	    echo "The web page is built with Node.js 18 or newer, and there is no npm: install nodejs and npm," >&2; \
	    echo "then run make again. Maps, tiles and notebooks work without: make map, python -m tiles." >&2; exit 1; }
	cd $(WEB) && npm ci --silent
	@touch $@

# Playwright would download a browser of its own; the tests drive the one of the system.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	    echo "Installing chromium for the browser tests."; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || { \
	    echo "No browser: install chromium (or google-chrome), the tests of the web page need one." >&2; exit 1; }
