# Everything here works on a machine with Python 3.11+ (with venv), git and make. `make help` lists it.
PYTHON ?= python3
CPYTHON := .venv/bin/python
PYPY_PYTHON := .venv-pypy/bin/python

.DEFAULT_GOAL := help
.PHONY: help install demo test test-pypy lint format pypy bench targets sim mutation fuzz docs reference lock sbom audit ci ci-full clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed ## set up .venv (CPython): the project, its tools, an embedded Postgres

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: say which to use, as in make PYTHON=python3.12 install" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(CPYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs,embedded,examples]'
	@touch $@

demo: install ## see it work: receivers of five kinds, 1,000 events, every promise checked, under a minute
	.venv/bin/webhook-worker demo

# Most tests share the processors; what measures, kills and waits is alone. MARKS='not sql' leaves out.
define tests
$(1) -m pytest -m '$(MARKS)' tests/unit
$(1) -m pytest -n auto -m '$(if $(MARKS),($(MARKS)) and )not alone' tests/simulation tests/database tests/socket tests/process
$(1) -m pytest -m '$(if $(MARKS),($(MARKS)) and )alone' tests/simulation tests/database tests/socket tests/process
endef

test: install ## the whole test suite on CPython, with an embedded Postgres (or TEST_DATABASE_URL; some of it: ARGS)
	$(if $(ARGS),$(CPYTHON) -m pytest $(ARGS),$(call tests,$(CPYTHON)))

pypy: .venv-pypy/.installed ## set up .venv-pypy (PyPy 3.11; PYPY=path names one; needs libpq, and on Debian 12 root and apt)

.venv-pypy/.installed: pyproject.toml deploy/pypy.sh | install
	deploy/pypy.sh .venv-pypy
	@touch $@

test-pypy: pypy ## the whole test suite on PyPy
	$(if $(ARGS),$(PYPY_PYTHON) -m pytest $(ARGS),$(call tests,$(PYPY_PYTHON)))

lint: install ## ruff, mypy --strict, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: install ## let ruff format and mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# The build matters: one without profile-guided optimization costs a fifth more. Debian's own has it.
BENCH_PYTHON ?= $(if $(wildcard /usr/bin/python3.1[1-9]),/usr/bin/python3,$(PYTHON))
COMPARISON := benchmarks/results/compare-unreleased.json

.bench/.installed: pyproject.toml benchmarks/contestants/requirements.txt | install
	$(BENCH_PYTHON) -m venv --without-pip .bench
	$(CPYTHON) -m pip --python .bench/bin/python install --quiet --disable-pip-version-check \
	  --editable '.[embedded]' --requirement benchmarks/contestants/requirements.txt
	@touch $@

# With ARGS it is a trial; without, its results are those of the README, and of the plots in docs.
bench: pypy .bench/.installed ## this worker beside what people use today, half an hour (a trial: ARGS=--quick, ARGS='--scale 0.2')
ifdef ARGS
	.bench/bin/python -m benchmarks compare $(ARGS)
else
	@status=0; .bench/bin/python -m benchmarks compare --json > .bench/compare.json || status=$$?; \
	test -s .bench/compare.json && cp .bench/compare.json $(COMPARISON) && .bench/bin/python -m benchmarks.compare.publish $(COMPARISON) && exit $$status
endif

TARGETS := cold-start idle steps sender one-endpoint origins burst fairness fan-out claim-growth producers enqueue-cost rate-audit bulk-retry held-snapshot ticket-sale chaos endurance

targets: install ## every benchmark that has a target of its own, two hours (ARGS=--quick, ARGS='--scale 0.1')
	@failed=; for name in $(TARGETS); do \
	  echo "== $$name"; $(CPYTHON) -m benchmarks $$name $(ARGS) || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

# A seed alone (SEED=7) is replayed, and its whole history printed.
sim: install ## play scenarios on a virtual clock and judge them by the promises (SEEDS=100, or SEED=7 to see one again)
	$(CPYTHON) tests/simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100))

mutation: install ## break the worker on purpose, one way at a time, and see the simulation find it
	$(CPYTHON) tests/simulation/mutation.py

fuzz: install ## look for a URL that connects to a denied address, with atheris (SECONDS=600)
	$(CPYTHON) -m pip install --quiet --disable-pip-version-check atheris
	PYTHONPATH=.:tests:tests/socket $(CPYTHON) tests/socket/fuzz_urls.py -max_len=80 -max_total_time=$(or $(SECONDS),60)

# The variable keeps an announcement of the theme's makers out of what is said about the pages.
docs: install ## the documentation as a site, in site/ (broken links and anchors, and pages without a place, are errors)
	NO_MKDOCS_2_WARNING=1 $(CPYTHON) -m mkdocs build --strict
	@echo "site/index.html"

reference: install ## write docs/reference anew, from the code
	RECORD_REFERENCE=1 $(CPYTHON) -m pytest -q tests/database/test_reference.py

LOCK := deploy/requirements.lock

.release/.installed:
	$(PYTHON) -m venv .release
	.release/bin/python -m pip install --quiet --disable-pip-version-check uv cyclonedx-bom pip-audit
	@touch $@

lock: install .release/.installed ## pin what was tested, with hashes, for both runtimes
	$(CPYTHON) -m pip --disable-pip-version-check freeze --exclude-editable > .release/tested.txt
	.release/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
	  --constraint .release/tested.txt pyproject.toml --output-file $(LOCK)

sbom: .release/.installed ## what is in a deployment, as CycloneDX: sbom.cdx.json
	.release/bin/cyclonedx-py requirements $(LOCK) --pyproject pyproject.toml --output-reproducible --output-file sbom.cdx.json

audit: .release/.installed ## known vulnerabilities of what is pinned (needs the network)
	.release/bin/pip-audit --disable-pip --requirement $(LOCK)

ci: ## what CI runs
	.ci/run

ci-full: ci ## the same, then a long simulation, mutants, every benchmark, shortened, a trial of the comparison, the fuzzer: two hours
	$(MAKE) sim SEEDS=1000
	$(MAKE) mutation
	$(MAKE) targets ARGS=--quick
	$(MAKE) bench ARGS='--quick --scale 0.2'
	$(MAKE) fuzz

clean: ## remove the environments and caches
	rm -rf .venv .venv-pypy .pypy .bench .release site sbom.cdx.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
