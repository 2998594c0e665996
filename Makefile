# Everything runs in .venv, made on first use from any Python >= 3.11: `make demo PYTHON=python3.12`.
PYTHON ?= python3
BIN := .venv/bin
# The pins are those the results were measured with; newer Pythons take the newest allowed.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One BLAS thread: results are equal to the bit only then, and the processes share the cores anyhow.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-long lint format proto bench targets coverage faults watched peers clean

.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pointsman needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --constraint requirements.lock --editable '.[dev]'
	touch $@

demo: .venv/ready  ## a server, a fleet of agents, and what was saved
	$(BIN)/pointsman demo

test: .venv/ready  ## the suite, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal

test-long: .venv/ready  ## what the suite leaves out: whole runs of minutes
	$(BIN)/python -m pytest -n auto --dist worksteal -m long --timeout 1800

lint: .venv/ready  ## ruff, mypy strict, stubs up to date, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python proto/generate.py --check
	if command -v npx >/dev/null; then $(BIN)/python proto/generate.py --lint; else echo "no npx: buf lint left out"; fi

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: .venv/ready  ## stubs from the protos
	$(BIN)/python proto/generate.py

bench: .venv/ready  ## ratios measured side by side, appended to tests/benchmarks/history.jsonl
	$(BIN)/python -m tests.benchmarks

targets: .venv/ready  ## what is aimed at on measured outcomes, each cell run again: make targets ARGS='--quick --data DIR'
	$(BIN)/python -m tests.benchmarks.targets $(ARGS)

coverage: .venv/ready  ## whether replay's intervals hold the truth on logs whose truth is known
	$(BIN)/python -m tests.benchmarks.coverage $(ARGS)

faults: .venv/ready  ## every fault that is to be survived, at length: make faults ARGS='disk power --quick'
	$(BIN)/python -m tests.faults $(ARGS)

watched: .venv/ready  ## the dashboard on a log of a million decisions, and what it costs a Select: make watched ARGS='--decisions 20000'
	$(BIN)/python -m tests.benchmarks.watched $(ARGS)

# In an environment of their own: what they bring along is nothing that the project needs.
.venv-bench/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	touch $@

peers: .venv-bench/ready  ## MABWiser's and coba's learners on the very stream that simulate plays
	.venv-bench/bin/python -m tests.benchmarks.peers $(ARGS)

clean:
	rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache dist
