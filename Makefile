# The commands of this project. `make` alone lists them.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test attack check lint bench fuzz dist

TARGET := $(or $(CARGO_TARGET_DIR),target)
MUSL := $(shell uname -m)-unknown-linux-musl

# Without its feature for demo and benchmarks xtask has next to no dependencies, so that rules and tests start at once.
XTASK := cargo run --quiet --locked -p xtask --no-default-features --

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing on this machine (apt, rustup components)
	@scripts/setup.sh

setup-test: # The same, and the programs that the tests try in sandboxes
	@scripts/setup.sh test

demo: setup ## Build, start a server and run the main job visibly: an agent mends a repository and pushes
	cargo build --locked --profile fast -p lap -p xtask
	@$(TARGET)/fast/xtask demo

test: setup-test ## Run all tests; the last line is the summary
	@$(XTASK) test

attack: setup ## Let a hostile program loose in a sandbox and print what it tried; part of the tests
	cargo test --locked --package lap --test attack -- --nocapture

check: setup-test lint ## Formatting, clippy, tidy rules, tests: what CI runs
	@$(XTASK) test

lint: ## Formatting, clippy and tidy rules, without the tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@$(XTASK) tidy

bench: setup ## Print the benchmark table, each row against its baseline (BENCH="--only sandbox --quick" for a part)
	cargo build --locked --profile fast -p lap -p xtask
	cargo build --locked --profile fast -p lap-vault --example bench
	@$(TARGET)/fast/xtask bench $(BENCH)

fuzz: ## Fuzz each target for FUZZ_SECONDS (60) with libFuzzer (FUZZ="hosts egress" for some)
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(FUZZ)

dist: ## Build the static release binary (musl)
	@scripts/setup.sh dist
	cargo build --locked --release --target $(MUSL) -p lap
	@ls -l $(TARGET)/$(MUSL)/release/lap
