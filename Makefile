# Every target sets up what it needs. The environment is .venv; `make install` makes it.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find src -type f -not -path '*/__pycache__/*')

.PHONY: install demo test check soak fuzz bench clean

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

# In two processes: most tests wait for processes of a fabric, and one alone leaves half of two cores idle.
TEST_PROCESSES ?= 2
test: check .venv/old-clients
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

# The full counts of every proof. No test takes half an hour; PART is what of them is run, as arguments of pytest.
PART ?= tests/unit tests/fabric tests/merging tests/escape
soak: install
	EDIF_TEST_SIZE=soak $(BIN)/python -m pytest $(PART) --timeout 1700

# A search, guided by coverage, for inputs that break a law of fuzz/: FUZZ_S seconds for each target. With clang, msgspec
# is built once more for it: then the search sees the branches of its C, and AddressSanitizer sees its faults of memory.
FUZZ_S ?= 60
FUZZ_TARGETS ?= packet family envelope key headers frame zstd link packed seat
FUZZ_ARGS ?= -max_total_time=$(FUZZ_S)
CLANG ?= clang

.venv/fuzz: .venv/dependencies pyproject.toml constraints.txt
	rm -rf $@ $@.part && mkdir $@.part
	$(BIN)/pip install --quiet -c constraints.txt --group fuzz
	if command -v $(CLANG) >/dev/null; then \
		CC='$(CLANG) -g -fsanitize=address,fuzzer-no-link' LDSHARED='$(CLANG) -shared' \
		$(BIN)/pip install --quiet --no-cache-dir --no-deps --no-binary msgspec -c constraints.txt --target $@.part msgspec; \
	fi
	mv $@.part $@

fuzz: install .venv/fuzz
	@if test -e .venv/fuzz/msgspec; then \
		export LD_PRELOAD=$$(echo .venv/lib/python3.*/site-packages/asan_with_fuzzer.so); \
		export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=32 PYTHONMALLOC=malloc PYTHONPATH=.venv/fuzz; \
	else \
		echo 'No clang when .venv/fuzz was made: the search sees the branches of Python only, and little of the parsers.'; \
	fi; \
	failed=0; \
	for target in $(FUZZ_TARGETS); do $(BIN)/python -m fuzz $$target $(FUZZ_ARGS) || failed=1; done; \
	exit $$failed

bench: install
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
