# Every target starts from nothing: it makes .venv and installs what constraints.txt pins.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: reproduce test lint notebooks figures bench clean

reproduce: $(READY)  ## train baseline, EST and RaPTr on real text, check RaPTr's lemma; writes reports/reproduce and its claims.html
	$(BIN)/est reproduce
	$(BIN)/est run stability-vs-depth
	$(BIN)/est claims --html reports/reproduce/claims.html

test: lint  ## the default test lane
	$(BIN)/python -m pytest -q -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

notebooks: $(READY)  ## execute every notebook from its .py source
	set -e; for source in notebooks/*.py; do $(BIN)/jupytext --quiet --to ipynb --execute $$source; done

figures: $(READY)  ## redraw every figure and table of the papers from the committed data
	$(BIN)/est figures
	$(BIN)/python paper_figures/readme.py

bench: $(READY)  ## the benchmarks of benchmarks/README.md; minutes
	$(BIN)/python benchmarks/subnet_step.py
	$(BIN)/python benchmarks/subnet_step.py --family llama
	$(BIN)/python benchmarks/subnet_step.py --family bert
	$(BIN)/python benchmarks/subnet_step.py --family t5
	$(BIN)/python benchmarks/grid_clock.py
	$(BIN)/python benchmarks/poly_seeds.py
	@echo "The next one needs its peers; its --help says how to install them"
	-$(BIN)/python benchmarks/trace_vs_peers.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; run: make PYTHON=python3.12")'
	@echo "Setting up .venv (once, a minute or two)"
	@$(PYTHON) -m venv .venv 2>/dev/null || { $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(READY)

clean:
	rm -rf .venv build *.egg-info
