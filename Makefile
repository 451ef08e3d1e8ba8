# Every task that a developer repeats. `make test` is what CI runs.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
NEXTEST := $(CARGO) nextest run --locked
SEED ?= 1
SEEDS ?= 0..10000
JOBS ?= 2
ARGS ?=
# Tests that need a container engine of their own.
HOSTS := binary(docker) or binary(hosts) or binary(kill) or binary(dev)

.PHONY: help setup demo check test sim hunt hosts soak bench docs

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what building and testing need
	tools/install.sh build
	tools/install.sh test

demo: ## install what is missing, then run three services of real containers (ARGS=--once: unattended)
	tools/install.sh build
	tools/install.sh engine
	$(CARGO) build --locked --release --bin mill
	examples/shop/build-images.sh
	target/release/mill dev -f examples/shop/mill.toml $(ARGS)

check: ## format, lints, dependencies, fast tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --offline check bans licenses sources
	$(NEXTEST) --workspace --exclude mill-sim-tests -E 'not ($(HOSTS))'

test: setup ## everything that CI runs: check, all tests with real containers, the demo unattended
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --offline check bans licenses sources
	MILL_REQUIRE_ENGINE=1 $(NEXTEST) --workspace
	$(MAKE) --no-print-directory demo ARGS=--once

sim: ## one simulated cluster: make sim SEED=7
	$(CARGO) run --locked --release --bin mill -- sim --seed $(SEED)

hunt: ## many simulated clusters: make hunt SEEDS=0..10000
	$(CARGO) run --locked --release --bin mill -- sim --seeds $(SEEDS) --jobs $(JOBS)

hosts: ## tests with real daemons and containers
	tools/install.sh test
	MILL_REQUIRE_ENGINE=1 $(NEXTEST) --workspace -E '$(HOSTS)'

soak: ## the large counts: 200 kills of the daemon under deploys, many seeds
	tools/install.sh test
	MILL_REQUIRE_ENGINE=1 MILL_KILLS=200 $(NEXTEST) --release -p mill -E 'binary(kill)'
	$(MAKE) --no-print-directory hunt SEEDS=$(SEEDS)

bench: ## benchmarks of functions, simulation speed and the idle daemon
	$(CARGO) bench --locked -p mill-core -p mill-runtime-sim -p mill-runtime-real
	tools/install.sh test
	$(CARGO) build --locked --release --bin mill
	tools/idle.sh
