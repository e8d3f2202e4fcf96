# make demo                     the demo, on HOST:PORT
# make demo-cluster             nginx, three processes, Redis; on PORT
# make test                     every check; ARGS goes to pytest:
#                               make test ARGS='tests/test_tool.py -x'
# make lint                     ruff and mypy alone
# make test-all-pythons         what needs no browser, on PYTHONS
# make picture                  the picture of the demo in the README
# make attack                   the attacks in full size; takes long
# make bench                    the figures, beside others'; half an hour:
#                               make bench ARGS='--only calls --rounds 3'
# make conformance              the Autobahn Testsuite, both ends; 15 minutes
# make clean                    removes what these made, .venv too
#
# The virtual environment is made with PYTHON, 3.11 or newer; when it is not
# given, python3 or the first of python3.13, 3.12, 3.11 that is.

HOST = 127.0.0.1
PORT = 8080
ARGS =
PYTHON ?=
PYTHONS = 3.12 3.13

VENV := .venv
BIN := $(VENV)/bin
JS := tests/js

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
export PIP_QUIET = 1

.PHONY: demo demo-cluster test attack bench conformance lint test-all-pythons picture clean programs
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m demo --host $(HOST) --port $(PORT)

demo-cluster: $(VENV)/.demo
	$(BIN)/python -m demo.cluster --host $(HOST) --port $(PORT)

test: lint programs
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy --strict cp_wsrpc

attack: $(VENV)/.test
	WSRPC_FULL=1 $(BIN)/python -m pytest --timeout 900 tests/attack \
	    tests/fuzz tests/test_tls.py tests/test_shutdown.py \
	    tests/test_history.py tests/test_recovery.py \
	    tests/test_redis_store.py tests/test_redis_broker.py \
	    tests/test_redis_keys.py tests/test_presence.py \
	    tests/test_idempotency.py tests/test_audience.py \
	    tests/test_session_watch.py tests/test_cluster.py \
	    tests/test_ioloop.py tests/test_tool.py \
	    tests/test_compression.py $(ARGS)

# ../shared/conformance/run installs the testsuite, for Python 2.7.
CONFORMANCE_PORT = 9741

conformance: $(VENV)/.test
	$(BIN)/python -m bench.server --port $(CONFORMANCE_PORT) & \
	    server=$$!; trap "kill $$server" EXIT; \
	    for try in 1 2 3 4 5 6 7 8 9; do sleep 1; \
	        curl -s localhost:$(CONFORMANCE_PORT)/echo && break; done; \
	    ../shared/conformance/run \
	        ws://127.0.0.1:$(CONFORMANCE_PORT)/echo
	$(BIN)/python -m tests.conformance_client

# 10 000 idle connections and the load's own need file descriptors.
bench: .venv-bench/.installed bench/node_modules/.installed
	ulimit -n 20000; .venv-bench/bin/python -m bench $(ARGS)

.venv-bench/.installed: bench/requirements.txt setup.cfg | $(BIN)/python
	$(BIN)/python -m venv .venv-bench
	.venv-bench/bin/python -m pip install -r bench/requirements.txt \
	    -e '.[speed]'
	touch $@

bench/node_modules/.installed: bench/package.json bench/package-lock.json
	cd bench && npm ci --no-audit --no-fund --loglevel=error \
	    && touch node_modules/.installed

picture: $(VENV)/.test
	$(BIN)/python -m demo.picture

# What needs no browser and no Node, and is about the package.  Each Python
# in an environment of its own; one that this machine does not have is named
# and left out.
test-all-pythons:
	@for version in $(PYTHONS); do \
	    python=$$(.ci/find-python $$version) || { \
	        echo "no Python $$version here: left out"; continue; }; \
	    venv=.venv-$$version; \
	    if [ ! -e $$venv/.test ] || [ setup.cfg -nt $$venv/.test ]; then \
	        $$python -m venv $$venv && \
	        $$venv/bin/python -m pip install -e '.[speed,demo,test]' && \
	        touch $$venv/.test || exit 1; \
	    fi; \
	    echo "Python $$version:"; \
	    tests=$$(grep -L 'need(\|import demo\|from demo' tests/test_*.py); \
	    cache="-o cache_dir=$$venv/.pytest_cache"; \
	    $$venv/bin/python -m pytest -q $$cache $$tests || exit 1; \
	done

clean:
	rm -rf .venv .venv-* build dist *.egg-info
	rm -rf $(JS)/node_modules bench/node_modules
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find cp_wsrpc tests demo -name __pycache__ -prune -exec rm -rf {} +

# Debian packages and npm packages.  Where neither apt-get nor npm may be
# used, it is said what is missing and which tests will skip.
programs: $(VENV)/.programs $(JS)/node_modules/.installed
	@$(BIN)/python -m tests.need

# The files below say that something has been installed; a second "make
# test" finds them newer than what they depend on, and starts at once.

$(BIN)/python:
	@python=$$(.ci/find-python $(PYTHON)) && $$python -m venv $(VENV)

# uvloop is compiled for most machines, not for all: the demo does without.
$(VENV)/.demo: setup.cfg setup.py | $(BIN)/python
	$(BIN)/python -m pip install -e '.[speed,demo]' \
	    || $(BIN)/python -m pip install -e '.[demo]'
	touch $@

$(VENV)/.test: setup.cfg setup.py | $(BIN)/python
	$(BIN)/python -m pip install -e '.[speed,demo,test]'
	touch $@ $(VENV)/.demo

$(VENV)/.programs: tests/need.py | $(VENV)/.test
	@packages=$$($(BIN)/python -m tests.need --packages); \
	if [ -n "$$packages" ] && [ "$$(id -u)" = 0 ] \
	        && command -v apt-get > /dev/null; then \
	    echo "apt-get install $$packages"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    install="apt-get install -qq --no-install-recommends $$packages"; \
	    $$install < /dev/null > /dev/null || { \
	        apt-get update -qq && $$install < /dev/null > /dev/null; } || :; \
	fi
	@touch $@

$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json \
        | $(VENV)/.programs
	@if command -v npm > /dev/null; then \
	    cd $(JS) && npm ci --no-audit --no-fund --loglevel=error \
	        && touch node_modules/.installed; \
	fi
