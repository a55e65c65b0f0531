# Everything here works in the environment that scripts/setup.sh makes.
BIN ?= .venv/bin/

.PHONY: setup check test deep bench lock mutants simulate

setup:
	sh scripts/setup.sh

# What needs no run: style, types, and who may import whom.
check:
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)lint-imports --no-cache

test:
	$(BIN)python -m pytest

# The property tests with thousands of random examples each, instead of a derandomised hundred.
deep:
	LOCKGATE_HYPOTHESIS=deep $(BIN)python -m pytest --timeout 3600

# Plausible wrong implementations of the statistics and of the ledgers, one place changed in each: which property kills it.
mutants:
	$(BIN)python -m pytest -n 0 -v -k "mutant_is_killed or unchanged_copy" tests/test_statistics.py tests/test_ledger.py \
		tests/test_fresh_ledger.py

# Every benchmark prints its own table; none of them is a test.
bench:
	@set -e; for file in $(filter-out %/conftest.py %/__init__.py,$(sort $(wildcard tests/benchmarks/*.py))); do \
		echo "== $$file"; $(BIN)python $$file; done

# Whole lives of 1,000 proposals under our gate and under other rules, and what single tests need; 1 where a claim fails.
simulate:
	$(BIN)python tests/simulations/simulate.py

# A new lock from pyproject.toml. torch stays out of it: torch-cpu.txt pins its release, and the place of installation
# its build. UV_FIND_LINKS names a folder with a CPU build, or the lock would take what a CUDA build requires.
lock:
	uv pip compile pyproject.toml --extra dev --extra examples --constraint torch-cpu.txt --no-emit-package torch \
		--python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock
	@! grep -E '^(nvidia|cuda)' requirements.lock
