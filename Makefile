# Everything here runs on a machine that has Python 3.11 or newer, make and a shell, and no more.
#
#   make lint                       style, types, import layers, migrations
#   make test                       the whole suite on embedded servers
#   make demo ARGS="--students 50"  the registration window
#   make bench ARGS="..."           figures, as ratios in one run
#   make bench-peers VENV=.venv-peers   the same beside the peers
#   make chaos ARGS="--seconds 600" everything killed, hung and emptied, judged from outside
#   make mutants                    takes away one guard at a time; the tests must notice
#   make test VENV=.venv-3.13 PYTHON=python3.13

.POSIX:

PYTHON = python3
VENV = .venv
ARGS =
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# Processes that share the suite, each with servers of its own: on two cores one of three waits.
PARALLEL = --numprocesses 3 --dist worksteal
# What runs on every vendor of the database.
VENDOR_SUITES = tests/protocol tests/contracts tests/test_purge.py tests/test_erasure.py \
	tests/test_figures.py tests/admin
# Crowds and dying processes, which SQLite has to stand as well.
STORM_SUITES = tests/concurrency/test_storm.py tests/faults/test_processes.py

.PHONY: lint test demo bench bench-peers chaos mutants clean

$(READY): requirements.txt setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is missing or older than 3.11: make $(MAKECMDGOALS) PYTHON=python3.x" >&2; \
		exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.txt -e .
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	DJANGO_SETTINGS_MODULE=settings.lint $(BIN)/python manage.py makemigrations --check --dry-run

# Two runs, because Django has one default database a process.
test: $(READY)
	TEST_DATABASE=sqlite $(BIN)/python -m pytest $(PARALLEL) $(VENDOR_SUITES) $(STORM_SUITES)
	$(BIN)/python -m pytest $(PARALLEL)

demo: $(READY)
	$(BIN)/python manage.py demo $(ARGS)

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

# In an environment of its own: one peer wants an older Django than we run on elsewhere.
bench-peers: $(READY)
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.txt -e '.[peers]'
	$(BIN)/python -m benchmarks --peers $(ARGS)

chaos: $(READY)
	$(BIN)/python -m chaos $(ARGS)

mutants: $(READY)
	$(BIN)/python -m mutants $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
