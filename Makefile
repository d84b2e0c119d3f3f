# Two commands for a start: `make demo` (PORT=8081 if 8080 is in use) and `make test`. CI runs check, test and test-long.
VENV ?= .venv
PY := $(VENV)/bin/python
SETUP_FILES := pyproject.toml hatch_build.py deploy/venv.sh $(wildcard collector/web/dashboard/package-lock.json)

.PHONY: demo test test-long check fuzz mutants wheel-test bench evidence drill clean
.DELETE_ON_ERROR:

$(VENV)/.demo: $(SETUP_FILES)
	@echo "Setting up $(VENV) (once; a minute or two) ..." >&2
	@sh deploy/venv.sh $(VENV) demo,export,report
	@touch $@

$(VENV)/.dev: $(SETUP_FILES)
	@echo "Setting up $(VENV) for development (once; a minute or two) ..." >&2
	@sh deploy/venv.sh $(VENV) dev
	@touch $@ $(VENV)/.demo

$(VENV)/.compiled: $(VENV)/.dev
	@echo "Compiling the tests (once; half a minute) ..." >&2
	@$(PY) -m pytest -q --collect-only >/dev/null || true
	@touch $@

demo: $(VENV)/.demo  ## simulators, agents, broker, collector and dashboard in one run
	@$(VENV)/bin/edgebed demo $(if $(PORT),--port $(PORT))

# the tests start hundreds of processes: what is compiled once is kept, outside the checkout, whatever the shell exports;
# one process compiles, because six at a time compile the same files six times
test test-long: export PYTHONDONTWRITEBYTECODE =
test test-long: export PYTHONPYCACHEPREFIX = $(abspath $(VENV))/pycache

test: $(VENV)/.compiled  ## all tests except the long ones; they mostly wait for real peers, so -n is useful
	$(PY) -m pytest -q -m "not slow" -n 8 --dist worksteal

test-long: $(VENV)/.compiled  ## the tests with the marker `slow`: thousands of power cuts, drills, ready scenarios
	$(PY) -m pytest -q -m slow -n 2 --dist worksteal

check: $(VENV)/.dev  ## style, types, import directions
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

fuzz: $(VENV)/.dev  ## mutated bytes into every decoder that faces a network or a file, a minute each
	$(PY) -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS))

mutants: $(VENV)/.dev  ## one change at a time in wire, outbox and ledger, which their unit tests must notice
	$(PY) -m tests.mutants $(if $(SEED),--seed $(SEED)) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(ONLY),--only $(ONLY))

wheel-test: $(VENV)/.dev  ## the tests on the built wheel, outside the checkout
	sh deploy/wheel-test.sh $(PY)

drill: $(VENV)/.dev  ## 1,000 rounds of all faults on both brokers; about an hour
	@mkdir -p test-output
	$(VENV)/bin/edgebed drill run --rounds 500 --broker both --junit test-output/drill.xml

bench: $(VENV)/.dev  ## the figures of README.md, compared side by side, into bench/results.md
	$(PY) -m bench

evidence: $(VENV)/.dev  ## whether the intervals of pilots hold the truth, into bench/evidence.md; 7 minutes of CPU time
	OPENBLAS_NUM_THREADS=1 $(PY) -m bench.evidence

clean:
	rm -rf $(VENV) dist build test-output .pytest_cache .mypy_cache .ruff_cache collector/web/dashboard/vendor
