# Each target is one plain command, or a few, that you could type yourself.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= outputs/quickstart

# No test and no quickstart step talks to the network.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.PHONY: setup quickstart learn test test-long test-browser demo docs style quality clean

setup: .venv/.installed

# torch first and alone: without the pin, pip would choose a build with several GB of CUDA packages.
.venv/.installed: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: setup
	@$(OFFLINE) sh training/quickstart.sh $(BIN) $(OUT)

# Real images, no GPU; half an hour on two cores. docs/learning.md has the results.
learn: setup
	$(OFFLINE) $(BIN)/python training/learn.py

test: setup
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not long and not gpu and not browser"

test-long: setup
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "long and not gpu and not browser"

# The demo in headless Chromium: Debian's package, driven by Playwright. A missing browser is a failure, not a skip.
test-browser: .venv/.browser
	$(OFFLINE) OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m browser tests/demo

.venv/.browser: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } || \
		{ echo 'error: Expected a browser; found no chromium. Run: apt-get install chromium' >&2; exit 1; }
	touch $@

# http://127.0.0.1:7860: the quickstart's network where there is one; DEMO='--backbone FOLDER_OR_HUB_ID' takes another.
demo: .venv/.demo
	$(BIN)/python demo/app.py $(DEMO)

.venv/.demo: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

# The pages of docs/ as a site, outputs/site/index.html; a warning is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf outputs build dist *.egg-info
