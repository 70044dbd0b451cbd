# `make demo` runs the main job from raw files to a map; `make test` checks style and types and passes the tests. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test docs clean

demo: $(INSTALLED)
	$(BIN)/fluxcube demo --out demo --overwrite

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[all,test,docs]'
	touch $@

clean:
	rm -rf .venv .mypy_cache demo docs/_build
