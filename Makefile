# Every target works from a fresh clone: it makes .venv from requirements.lock first. All paths are relative and
# programs run as `python -m`, so that the folder may be anywhere and its name may hold spaces.

PY := .venv/bin/python
# Workers by the number of cores (tests/conftest.py); each takes tests from another one when it has none left.
PYTEST := $(PY) -m pytest -n auto --dist worksteal
# Tests start hundreds of interpreters; where this is set (as in many container images) each compiles anew.
unexport PYTHONDONTWRITEBYTECODE
EXAMPLES := hello_world hello_world_async fibonacci fibonacci_async concurrent_execution concurrent_execution_sync \
            async_job_polling job_polling sync_blocking_usage grader llm_tool fastapi_app mcp_agent

TOOLCHAINS ?= /var/tmp/unsandbox-toolchains

.DEFAULT_GOAL := help
.PHONY: help install dev-install demo examples test test-all test-verbose test-coverage test-languages test-frameworks test-hosts test-clients abuse lint format docs site \
        bench bench-fair faults unasync lock clean \
        fuzz audit dist

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

install: ## Create .venv with the locked dependencies and this project
	@scripts/bootstrap

dev-install: ## As install, with the toolchains of all languages that the tests run
	@scripts/bootstrap --full

demo: ## Run programs in several languages on the embedded engine
	@scripts/bootstrap --minimal
	@$(PY) examples/demo.py

examples: ## Run every example on the embedded engine, or on the server in UNSANDBOX_API_BASE
	@scripts/bootstrap --minimal
	@set -e; for name in $(EXAMPLES); do echo "== examples/$$name.py"; \
	    UNSANDBOX_API_BASE="$${UNSANDBOX_API_BASE:-local}" $(PY) "examples/$$name.py"; done

test: dev-install ## Run the tests in parallel, without the slow ones (some minutes)
	@$(PYTEST) -q -m "not slow"

test-all: dev-install ## Run all tests, including attacks, crashes and installations, as CI does
	@$(PYTEST) -q

test-verbose: dev-install ## Run the tests one after the other, without the slow ones, with their names
	@$(PY) -m pytest -v -m "not slow"

test-coverage: dev-install ## Run all tests and show the lines that they do not cover
	@$(PYTEST) -q --cov --cov-report=term-missing:skip-covered

test-languages: install ## Install all toolchains into $(TOOLCHAINS), test all languages, update the table in the docs
	@$(PY) -m unsandbox.cli languages install all -y --folder "$(TOOLCHAINS)"
	@UNSANDBOX_TOOLCHAINS="$(TOOLCHAINS)" UNSANDBOX_LANGUAGE_TABLE=docs/languages.md \
	    $(PY) -m pytest -q --tb=native tests/languages

test-frameworks: dev-install ## Run the suites that agent frameworks ship for sandboxes (FRAMEWORK=name: one of them)
	@scripts/frameworks
	@.venv/frameworks/bin/python -m pytest -q -o asyncio_mode=strict -o filterwarnings=default \
	    tests/frameworks$(if $(FRAMEWORK),/test_$(FRAMEWORK).py)

test-clients: dev-install ## Run the tests with foreign clients of MCP and E2B, each unchanged in its own environment
	@scripts/clients
	@$(PY) -m pytest -q tests/clients

test-hosts: install ## Start the engine in each way under systemd and control groups v2, in a guest (root; minutes)
	@$(PY) -m tests.hosts.table

abuse: install ## Attack every kind of sandbox and a server; print the defence of each attack (JSON=1: as JSON)
	@$(PY) -m tests.abuse.table $(if $(JSON),--json)

lint: install ## Check style, format, spelling, dead code, types, layers, and generated files
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m vulture
	@$(PY) -m codespell_lib src docs tests scripts examples benchmarks changes Makefile *.md
	@$(PY) -m mypy
	@$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()'
	@$(PY) scripts/unasync.py --check
	@$(PY) scripts/chart.py --check

format: install ## Rewrite the sources in the project's style
	@$(PY) -m ruff check --fix --exit-zero .
	@$(PY) -m ruff format .

docs: dev-install ## Check the documentation: links resolve, code blocks run
	@$(PY) -m pytest -q tests/repo

site: install ## Build the documentation as a site into site/
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

bench: ## Measure all performance goals against their baselines
	@scripts/bootstrap --minimal
	@$(PY) benchmarks/goals.py

bench-fair: ## Measure how much one key's flood of jobs slows down another key
	@scripts/bootstrap --minimal
	@$(PY) benchmarks/fair_sharing.py

faults: ## Load a server to its limit for five minutes while its parts are killed; check that nothing is lost
	@scripts/bootstrap --minimal
	@$(PY) benchmarks/load_and_faults.py

fuzz: install ## Fuzz each parser for 20 s, and the API by its OpenAPI document
	@scripts/tools
	@PYTHONPATH="$$(echo .venv/tools/lib/python3*/site-packages)" $(PY) benchmarks/fuzz.py

audit: install ## Check the installed packages: lock, file hashes, licences, known vulnerabilities
	@scripts/tools
	@$(PY) scripts/audit

dist: install ## Build wheel, source archive and bill of materials (CycloneDX) into dist/
	@scripts/tools
	@$(PY) -m hatchling build -d dist
	@$(PY) scripts/sbom dist/unsandbox.cdx.json

unasync: install ## Generate the sync client from the async one
	@$(PY) scripts/unasync.py

lock: install ## Update requirements.lock to the newest versions
	@$(PY) -c 'import uv' 2>/dev/null || $(PY) -m pip install -q uv
	@$(PY) -m uv pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-emit-index-url \
	    --no-emit-find-links --custom-compile-command 'make lock' --extra dev --python-version 3.11 \
	    pyproject.toml --output-file requirements.lock
	@$(PY) -m uv pip compile -q --upgrade --universal --generate-hashes --no-annotate --no-emit-index-url \
	    --no-emit-find-links --custom-compile-command 'make lock' --group tools --constraint requirements.lock \
	    --python-version 3.11 --output-file requirements-tools.lock

clean: ## Remove everything that builds and tests created, including .venv
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov dist build site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
