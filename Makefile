# `make quickstart` and `make test` need python3 (3.11 or 3.12) and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-long test-pod lint docs notebooks bench fuzz clean

quickstart: .venv/ready
	rm -rf runs/quickstart
	$(BIN)/fr-jax train --config=configs/inter_prototype.py:smoke --workdir=runs/quickstart

test: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

# In the order of collection: README's commands, which take longest, first.
test-long: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder \
		-m 'long and not pod'

# Many seeds, random moments, the commands of docs/: after a change of the guard, of
# signals or of a page.
test-pod: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m pod

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(MAKE) docs

# The site, in docs/build/html; a warning is an error. Executes nothing.
docs: .venv/ready
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/build/html

# Executes every notebook in a new kernel and stores it with its outputs.
notebooks: .venv/ready
	$(BIN)/python -m tests.support.stored_notebooks

bench: .venv/ready-bench
	$(BIN)/python -m benchmarks

# 100,000 inputs for every reader of foreign files: an hour on two cores.
fuzz: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.support.fuzz_weights

.venv/ready: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "fr_jax needs Python 3.11 or 3.12: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[tensorflow,dev,docs]'
	@touch $@

.venv/ready-bench: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
