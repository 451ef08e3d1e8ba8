# Every task that a developer repeats. `make test` is what CI runs.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
NEXTEST := $(CARGO) nextest run --locked
SEED ?= 1
SEEDS ?= 0..10000
RAFT_SEEDS ?= 0..300
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The tests run what they have built already; people get what is optimised.
PROFILE ?= release
MILL := $(TARGET)/$(PROFILE:dev=debug)/mill
BUILD := $(CARGO) build --locked --workspace --profile $(PROFILE) --bin mill
WIRE_SEEDS ?= 100
JOBS ?= 2
ARGS ?=
.PHONY: help setup demo lint check test sim hunt wire mutants madsim hosts load soak bench

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what building and testing need
	tools/install.sh build
	tools/install.sh test

demo: ## install what is missing, then run three services of real containers (ARGS=--once: unattended)
	tools/install.sh build
	tools/install.sh engine
	$(BUILD)
	examples/shop/build-images.sh
	$(MILL) dev -f examples/shop/mill.toml $(ARGS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) fetch --locked --quiet
	$(CARGO) deny --offline check bans licenses sources

check: lint ## format, lints, dependencies, and every test that needs no container engine
	$(NEXTEST) --workspace -E 'not (package(mill) or binary(docker))'

test: setup lint ## everything that CI runs: all tests with real containers, many seeds, the demo
	MILL_REQUIRE_ENGINE=1 $(NEXTEST) --workspace --no-fail-fast
	$(MAKE) --no-print-directory hunt SEEDS=0..600 PROFILE=dev BUILD=true
	$(MAKE) --no-print-directory mutants
	$(MAKE) --no-print-directory madsim SEEDS=0..20
	$(MAKE) --no-print-directory demo ARGS=--once PROFILE=dev BUILD=true

sim: ## one simulated cluster: make sim SEED=7
	$(BUILD)
	$(MILL) sim --seed $(SEED)

hunt: ## many simulated clusters: make hunt SEEDS=0..10000
	$(BUILD)
	$(MILL) sim --seeds $(SEEDS) --jobs $(JOBS)

wire: ## nodes over a simulated network that breaks, many seeds: make wire WIRE_SEEDS=100
	MILL_WIRE_SEEDS=$(WIRE_SEEDS) $(NEXTEST) --workspace \
		-E 'package(mill-runtime-real) and (test(daemon::tests) or binary(rpc))'

mutants: ## known bugs that the simulators must find, each in a process of its own
	$(NEXTEST) --workspace --features mill-sim-tests/mutants --test mutants --no-fail-fast

# RUSTFLAGS here replaces the flags in .cargo/config.toml, so it names the linker again.
madsim: SEEDS = 0..30
madsim: ## real consensus on the strict engine, each seed twice: make madsim SEEDS=0..300
	RUSTFLAGS="--cfg madsim -Clink-arg=-fuse-ld=mold" MILL_TEST_RAFT_SEEDS=$(SEEDS) \
		$(NEXTEST) --target-dir $(TARGET)/madsim --profile madsim --no-tests=fail --no-capture \
		-p mill-sim-tests --test raft

hosts: ## tests with real daemons and containers
	tools/install.sh test
	MILL_REQUIRE_ENGINE=1 $(NEXTEST) --workspace -E 'package(mill) or binary(docker)'

load: ## updates, drains and lost nodes, ten of each, under 2,000 requests per second
	tools/install.sh test
	$(CARGO) build --locked --release --workspace --example serve
	MILL_RATE=2000 MILL_REQUIRE_ENGINE=1 $(NEXTEST) --release --workspace --bins --test cluster \
		--no-fail-fast --success-output final --stress-count 10 -E 'test(/through_(ingress|the_service_address)/)'

soak: ## the large counts: 200 kills of a daemon under deploys, 20 of a leader, 10 updates under load, many seeds (SEEDS=A..B, RAFT_SEEDS=A..B, WIRE_SEEDS=N)
	tools/install.sh test
	MILL_REQUIRE_ENGINE=1 MILL_KILLS=200 MILL_LEADER_KILLS=20 MILL_UPDATES=10 MILL_RATE=1000 $(NEXTEST) --workspace \
		--no-capture -E 'binary(kill) or test(a_killed_leader) or (test(an_update_under_load) - test(/through_/))'
	$(MAKE) --no-print-directory hunt SEEDS=$(SEEDS)
	$(CARGO) test --locked --release -p mill-sim-tests --test swarm -- --ignored
	$(MILL) sim --raft --seeds $(RAFT_SEEDS) --jobs $(JOBS)
	$(MAKE) --no-print-directory madsim SEEDS=$(RAFT_SEEDS)
	$(MAKE) --no-print-directory wire
	$(MAKE) --no-print-directory load

bench: ## benchmarks of functions, simulation speed, the idle daemon, twenty of them, etcd and Swarm beside it
	$(CARGO) bench --locked -p mill-core -p mill-runtime-sim -p mill-consensus
	tools/install.sh test
	tools/install.sh etcd
	$(CARGO) build --locked --release -p mill --bin mill --example versus
	tools/idle.sh
	tools/twenty.sh
	tools/versus-etcd.sh
	tools/versus-swarm.sh
