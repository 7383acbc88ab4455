# The commands of this repository. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= 3.11
BIN := .venv/bin
# Tests at once: most of them wait for something to be said, so there may be more of them than cores.
PROCESSES ?= 4
# uv from the system, else one that pip puts beside the caches.
UV := $(or $(shell command -v uv 2>/dev/null),.cache/uv/bin/uv)
NODE_PACKAGES := containerd runc containernetworking-plugins docker.io mmdebstrap iptables iproute2
# What a fast second run is worth: nothing is installed again unless these change.
INSTALLED := .venv/.installed

.PHONY: help setup speech run test test-cluster e2e e2e-kind node-packages bench-operator cluster-binaries soak lint format generate bench clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Install what everything needs into .venv (Python 3.11 and pip suffice)

run: setup speech ## Start antiphon, hold a spoken conversation with it, stay up until Ctrl-C (ONCE=1: end after it)
	@$(BIN)/antiphon demo $(if $(ONCE),--once) $(ARGS)

test: setup speech ## Run every test (ARGS="-k name": some; PROCESSES=0: one after another)
	@$(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope $(ARGS)

test-cluster: setup speech ## Run the tests against a real Kubernetes control plane (needs Go 1.26)
	@$(BIN)/python -m pytest tests/cluster $(ARGS)

bench-operator: setup ## Measure the operator against a control plane of its own (ARGS="hand_overs outage": some suites)
	@$(BIN)/python tests/cluster/operator_figures.py $(ARGS)

e2e: setup speech node-packages ## Run the end-to-end cases on a real node made here (root), or on CONTEXT=name
	@$(BIN)/python -m pytest e2e $(if $(CONTEXT),--context $(CONTEXT)) $(ARGS)

e2e-kind: setup speech ## Run the end-to-end cases on kind (needs docker, kind and Go)
	@e2e/kind.sh $(ARGS)

# What a real node is made of, where Debian's package manager and the right to use it are at hand.
node-packages:
	@if [ -z "$(CONTEXT)" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		dpkg --status $(NODE_PACKAGES) >/dev/null 2>&1 || \
			{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $(NODE_PACKAGES); } >/dev/null; \
	fi

cluster-binaries: setup ## Build the programs of the test clusters with Go (ten minutes the first time, then seconds)
	@$(BIN)/python tests/cluster/cluster_binaries.py $(PROGRAMS)

soak: setup speech ## Twenty conversations and a fault every few seconds, for five minutes (SOAK_S=: as long)
	@ANTIPHON_SOAK_S=$(or $(SOAK_S),300) $(BIN)/python -m pytest -rP -k test_soak tests/component/test_system_faults.py

lint: setup ## Check format, style, types and import layers
	@echo "format" && $(BIN)/ruff format --check .
	@echo "style" && $(BIN)/ruff check .
	@echo "types" && $(BIN)/mypy
	@echo "layers" && $(BIN)/lint-imports

format: setup ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

generate: setup ## Generate the wire's code from its .proto files; CRDs, docs/reference and the chart's schema from the models
	@cd services && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
		antiphon/contracts/v1/*.proto
	@$(BIN)/python -m antiphon.contracts.resources.generate
	@$(BIN)/python charts/antiphon/schema.py

bench: setup speech ## Measure what a listener hears; docs/benchmarks.md explains the figures
	@$(BIN)/antiphon bench $(ARGS)

speech: setup ## Fetch recordings of human speech, where the system has none (without them, some tests are skipped)
	-@$(BIN)/python -m antiphon.testing.speech

clean: ## Remove the environment, the caches and what runs left behind
	@rm -rf .venv .cache out .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(INSTALLED): pyproject.toml uv.lock | $(UV)
	@echo "Installing into .venv; the first time takes a few minutes."
	@$(UV) sync --locked --python $(PYTHON)
	@touch $@

.cache/uv/bin/uv:
	@echo "Installing uv with pip."
	@python$(PYTHON) -m pip install --quiet --target .cache/uv uv
