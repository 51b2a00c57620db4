# One entry point, the same by hand and in CI.
SECONDS ?= 20
RATE ?= 20000
SYMBOLS ?= 100
WORKERS ?= 2
# Tests wait more than they compute: three processes for each core, each with servers of its own (0.3 GB).
PROCESSES ?= $(shell n=$$((3 * $$(nproc))); echo $$((n < 16 ? n : 16)))
SOAK_MINUTES ?= 5
CHAOS_SEED ?=
PYTHON ?= python3
BIN := .venv/bin
NATIVE := $(wildcard native_pipeline/*.pyx native_pipeline/*.pxd native_pipeline/*.h) setup.py pyproject.toml

.PHONY: help build demo test check nightly soak coverage bench clean native

help:
	@echo "make build | demo [SECONDS= RATE= SYMBOLS= WORKERS=] | test [PROCESSES=] | check | bench"
	@echo "make nightly [CHAOS_SEED= SOAK_MINUTES=] | soak [SOAK_MINUTES=] | coverage | clean"

build: .venv/native.stamp

.venv/packages.stamp: requirements/dev.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version' 
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || \
		{ echo "Python.h is missing: apt-get install python3-dev" >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || { echo "a C compiler is missing: apt-get install gcc libc6-dev python3-dev" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

.venv/native.stamp: .venv/packages.stamp $(NATIVE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

demo: build
	$(BIN)/sise demo --seconds $(SECONDS) --rate $(RATE) --symbols $(SYMBOLS) --workers $(WORKERS)

test: build
	$(BIN)/pytest -m "not nightly" -n $(PROCESSES) --dist worksteal --junitxml=junit.xml

check: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check daemon tests profiling
	$(BIN)/mypy
	$(BIN)/stubtest native_pipeline --mypy-config-file pyproject.toml --ignore-missing-stub --allowlist tests/stubtest_allowlist.txt
	PATH=$(CURDIR)/$(BIN):$$PATH cython-lint --max-line-length 120 native_pipeline
	$(BIN)/pytest tests/spec

# What the day's run has, looking longer; what is too long for it, two at a time; the limits of recovery; load with faults.
# Each is run whatever became of the one before it.
nightly: export SISE_TESTS = nightly
nightly: export SISE_CHAOS_SEED = $(CHAOS_SEED)
nightly: build
	@failed=; \
	$(BIN)/pytest -m "not nightly" -n $(PROCESSES) --dist worksteal --junitxml=junit.xml || failed="$$failed day"; \
	$(BIN)/pytest -m nightly -n 2 --dist worksteal --junitxml=junit-nightly.xml || failed="$$failed night"; \
	$(BIN)/python profiling/bench_recovery.py --short || failed="$$failed limits"; \
	$(MAKE) soak || failed="$$failed soak"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

soak: build
	$(BIN)/python profiling/soak.py --minutes $(SOAK_MINUTES) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

coverage: build
	$(BIN)/coverage run -m pytest tests/spec tests/integration -m "not nightly" -p no:xdist
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered --sort=cover | tail -40

bench: build
	for bench in ring parse hot_path copy publish spill recovery reconcile end_to_end; do $(BIN)/python profiling/bench_$$bench.py || exit 1; done

clean:
	rm -rf .venv build *.egg-info native_pipeline/*.c native_pipeline/*.so demo-data htmlcov .coverage*
