# make run    collector and agent on this machine          make test   all tests
# make demo   a small simulated fleet                      make check  ruff, mypy, import-linter
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SECONDS ?= 600

.PHONY: run demo test test-services soak fuzz bench check lock clean

run: $(STAMP)
	$(BIN)/joulefleet up

demo: $(STAMP)
	$(BIN)/joulefleet up --demo

test: $(STAMP)
	$(BIN)/pytest

# The stores against real servers: InfluxDB 1.6 and VictoriaMetrics of Debian, and InfluxDB 2 where INFLUXD names it.
test-services: $(STAMP)
	tests/services/install.sh
	JOULEFLEET_SERVICES=required $(BIN)/pytest tests/services tests/collector/store/test_store.py \
		tests/collector/store/test_influx*.py tests/collector/test_check.py tests/collector/test_service.py \
		tests/e2e/test_store_*.py

# 200 agents, kill -9 of everything, and in the end every sum exact; the seed that it tells makes the same kills again.
soak: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(SECONDS)

# Property tests, with many more examples than `make test` tries.
fuzz: $(STAMP)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest tests/core tests/agent/test_cutter.py \
		tests/agent/test_pipeline.py tests/collector/account

# Each prints a table; the collector's wants two cores that nothing else uses.
bench: $(STAMP)
	$(BIN)/python benchmarks/collector.py --servers 1000 --seconds 8 --windows 80 --json bench-collector.json
	$(BIN)/python benchmarks/stages.py --servers 500
	$(BIN)/python benchmarks/upkeep.py --servers 50
	$(BIN)/python benchmarks/store.py --servers 50 --days 3 --influx-servers 0
	$(BIN)/python benchmarks/wire.py --servers 3 --json bench-wire.json
	$(BIN)/python benchmarks/catch_up.py --servers 5 --hours 2 --after 3 --json bench-catch-up.json
	$(BIN)/python benchmarks/peers.py --servers 200 --seconds 4 --turns 2 --json bench-peers.json
	$(BIN)/python benchmarks/agent.py --seconds 20 --json bench-agent.json
	$(BIN)/python benchmarks/tick.py --json bench-tick.json
	$(BIN)/python benchmarks/attribution.py --servers 2
	$(BIN)/python benchmarks/proxy.py --streams 200 --seconds 8 --json bench-proxy.json

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every package comes from the lock, by hash; ours is built with what the lock holds, without fetching anything else.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("JouleFleet needs Python 3.11 or later; this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $(STAMP)

# The lock holds for every platform and Python; it names packages and hashes, and no place to fetch them from.
lock:
	$(PYTHON) -m pip install --quiet uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--all-extras pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
