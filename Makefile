# Every target sets up what it needs. The environment is .venv; `make install` makes it.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find src -type f -not -path '*/__pycache__/*')

.PHONY: install demo test check soak bench clean

install: .venv/installed .venv/tools

# The dependencies, in the versions that are tested. torch comes first and alone, so that nothing else picks it.
.venv/dependencies: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt '.[all]'
	touch $@

# The package itself, as users get it: a wheel, not a link to the sources.
.venv/installed: .venv/dependencies $(SOURCES)
	$(BIN)/pip install --quiet --no-deps --force-reinstall .
	touch $@

.venv/tools: .venv/dependencies pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt --group dev
	touch $@

demo: .venv/installed
	$(BIN)/python examples/demo.py

# Clients of earlier generations, beside the environment and not in it: tests see what they show when refused.
OLD_CLIENTS := 0.5.15 0.6.3 0.7.0
.venv/old-clients: .venv/tools tests/old_clients.txt
	rm -rf $@ $@.part
	$(BIN)/pip install --quiet --target $@.part/shared -r tests/old_clients.txt
	for version in $(OLD_CLIENTS); do \
		$(BIN)/pip install --quiet --no-deps --target $@.part/$$version nnsight==$$version || exit 1; \
	done
	mv $@.part $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check .venv/old-clients
	$(BIN)/python -m pytest

# The full counts of every proof, in parts of less than half an hour each.
soak: install
	EDIF_TEST_SIZE=soak $(BIN)/python -m pytest tests/unit tests/fabric --timeout 1700

bench: install
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
