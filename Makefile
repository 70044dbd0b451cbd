# `make demo` runs the main job from raw files to a map; `make test` checks style and types and passes the tests, with a
# third of the long ones (by the ISO week); `make proofs` passes all of these; `make samples` runs every recipe on its sample;
# `make docs` builds the documentation; `make wheel` builds the package and tries it in clean environments; `make lowest` passes
# the tests with the lowest versions that pyproject.toml allows; `make release VERSION=...` sets a version and tags it;
# `make catalog` writes the catalog from the metadata of the recipes. Each makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TESTED := -c constraints.txt -e '.[all,test,docs]'
LINKS := $(if $(PIP_FIND_LINKS),--find-links '$(PIP_FIND_LINKS)')

.PHONY: demo test proofs samples docs wheel lowest release catalog clean

demo: $(INSTALLED)
	$(BIN)/fluxcube demo --out demo --overwrite

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
# Rewriting every assertion takes each worker seconds; the tests that failed are run again with the values that differ.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --assert=plain || \
	{ $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; exit 1; }

proofs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m proof

samples: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m sample --dist load --assert=plain tests/test_recipe_samples.py

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

wheel: $(INSTALLED)
	$(BIN)/python packaging/wheel.py

lowest: packaging/lowest.sh
	bash packaging/lowest.sh

release: $(INSTALLED)
	bash packaging/release.sh $(VERSION)

catalog: $(INSTALLED)
	$(BIN)/python -m fluxcube.catalogfile recipes catalogs/fluxcube.yaml

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt uv
# uv installs in seconds what takes pip minutes; pip serves where only pip is configured for a mirror.
# Compiled once, as pip does, since each process would compile torch again where PYTHONDONTWRITEBYTECODE is set.
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python $(LINKS) $(TESTED) || \
	$(BIN)/python -m pip install --disable-pip-version-check -q $(TESTED)
	touch $@

clean:
	rm -rf .venv .venv-lowest .mypy_cache demo docs/_build docs/reference dist
