# Every command of the project. `make` alone lists them: the text after `##` is the description shown.
#
# Two rules hold here. What a target needs is checked, and installed where that is possible, before it starts.
# Measuring and building never overlap: a benchmark's build is finished before it starts, also under `make -j`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

CARGO ?= cargo
CARGO_TARGET_DIR ?= target

# The packages whose programs people run; the others exist for tests.
PROGRAMS := server client results sysctl

# The commands each kind of work needs; .ci/need knows which package brings them.
NEED_BUILD := cargo cc
NEED_LINT := $(NEED_BUILD) cargo-fmt cargo-clippy python3
NEED_TEST := $(NEED_BUILD) ip sysctl unshare nsenter setpriv chrt taskset python3 python3-venv curl wrk nginx ab bash pkill stty tmux prometheus \
	promtool groff strace systemd-analyze chromium chromedriver haproxy nginx-stream prlimit pdsh
NEED_FUZZ := $(NEED_BUILD) c++
NEED_LAB := ip nsenter
NEED_FAULTS := ip ss tc unshare prlimit
# What bench-http and bench-chat measure beside ours; they go on without those that cannot be had, and says so.
COMPETITOR_COMMANDS := nginx haproxy go wrk

.PHONY: help
help: ## List the targets (this text)
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@awk '/^## / { print substr($$0, 4) }' $(MAKEFILE_LIST)

.PHONY: need
need: ## Check, and as root on Debian install, what building, linting and testing need
	@bash .ci/need $(NEED_LINT) $(NEED_TEST)

# Final reports name the commit of the program that made them.
COMMIT = HOLDFAST_COMMIT=$$(GIT_OPTIONAL_LOCKS=0 git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)

.PHONY: build
build: ## Build the optimised binaries into target/release
	@bash .ci/need $(NEED_BUILD)
	$(COMMIT) $(CARGO) build --release --locked $(addprefix -p holdfast-,$(PROGRAMS))

# BIN_DIR names programs that are built already; without, they are built first.
.PHONY: install
install: $(if $(BIN_DIR),,build) ## Install programs, manual pages, completions, systemd units (PREFIX=/usr/local DESTDIR= BIN_DIR=)
	@BIN_DIR=$(BUILT) $(INSTALL) install

.PHONY: uninstall
uninstall: ## Remove exactly what make install made, given the same PREFIX and DESTDIR
	@$(INSTALL) uninstall

BUILT = $(abspath $(or $(BIN_DIR),$(CARGO_TARGET_DIR)/release))
INSTALL = $(if $(PREFIX),PREFIX=$(PREFIX)) $(if $(DESTDIR),DESTDIR=$(abspath $(DESTDIR))) packaging/install

# cargo-deb finds the stage below the target folder, wherever that is.
STAGE := $(abspath $(CARGO_TARGET_DIR))/release/stage
CARGO_DEB_VERSION := 3.8.0
CARGO_DEB := $(abspath $(CARGO_TARGET_DIR))/tools/bin/cargo-deb

$(CARGO_DEB):
	$(CARGO) install cargo-deb --locked --version $(CARGO_DEB_VERSION) --root $(CARGO_TARGET_DIR)/tools

.PHONY: deb
deb: $(if $(BIN_DIR),,build) $(CARGO_DEB) ## Make the Debian package holdfast into target/debian (BIN_DIR=)
	@bash .ci/need dpkg-shlibdeps strip
	rm -rf $(STAGE)
	BIN_DIR=$(BUILT) DESTDIR=$(STAGE) PREFIX=/usr ZSH_DIR=/usr/share/zsh/vendor-completions packaging/install install
	rm -r $(STAGE)/usr/share/holdfast
	strip $(STAGE)/usr/bin/*
	gzip -9n $(STAGE)/usr/share/man/man1/*
	$(CARGO_DEB) --package holdfast-server --no-build --no-strip --output $(CARGO_TARGET_DIR)/debian/

.PHONY: deb-check
deb-check: deb ## Unpack the package into a root of its own, start its server, connect, and remove it again
	@bash .ci/need groff
	packaging/deb-check $(CARGO_TARGET_DIR)/debian/holdfast_*.deb

.PHONY: bench-longconn
bench-longconn: build ## Hold a million TCP connections on this machine and prove it
	$(CARGO_TARGET_DIR)/release/holdfast-bench longconn $(BENCH_LONGCONN)

## bench-longconn takes: USERS=1000000 RATE=max|2000 EVERY=30s HOLD=60s SOURCE=127.0.1.0/28 ARGS='more options'
BENCH_LONGCONN = $(strip \
	$(if $(USERS),--users $(USERS)) \
	$(if $(RATE),--spawn-rate $(RATE)) \
	$(if $(EVERY),--interval $(EVERY)) \
	$(if $(HOLD),--hold $(HOLD)) \
	$(if $(SOURCE),--source $(SOURCE)) \
	$(ARGS))

.PHONY: bench-engine
bench-engine: ## Microbenchmarks of the engine: wheel, slot table, send path, commands, HTTP heads (ARGS=send for some)
	@bash .ci/need $(NEED_BUILD)
	$(CARGO) bench --locked -p holdfast-engine --bench engine -- $(ARGS)

.PHONY: bench-http
bench-http: competitors build ## Measure HTTP: our server and client beside a baseline, nginx, haproxy, Go and wrk, in one run
	$(CARGO) build --release --locked -p holdfast-engine --example baseline
	$(CARGO_TARGET_DIR)/release/holdfast-bench http $(BENCH_HTTP)

## bench-http takes: ROUNDS=3 SCENARIOS=keepalive-64,pipeline-16 COMPETITORS=0 ARGS='more options'
BENCH_HTTP = $(strip \
	$(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(SCENARIOS),--scenarios $(SCENARIOS)) \
	$(if $(filter 0,$(COMPETITORS)),--no-competitors) \
	$(ARGS))

.PHONY: charts
charts: ## Draw the charts of README.md from the committed records (results/runs) into results/charts
	$(CARGO) run --quiet --locked -p holdfast-report --example charts results/runs results/charts

.PHONY: bench-chat
bench-chat: competitors build ## Send messages to MEMBERS=100000 of a chat: our example beside a baseline, Go and tokio, in one run
	$(CARGO) build --release --locked -p holdfast-engine --example chat --example bare_chat
	$(CARGO) build --release --locked -p holdfast-results --example chat_members --example chat_tokio
	$(CARGO_TARGET_DIR)/release/holdfast-bench chat $(BENCH_CHAT)

## bench-chat takes: MEMBERS=100000 ROUNDS=5 ARGS='more options' (--messages 10)
BENCH_CHAT = $(strip \
	$(if $(MEMBERS),--members $(MEMBERS)) \
	$(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(ARGS))

# PEERS is the name it had before 0.2.0.
COMPETITORS ?= $(PEERS)

.PHONY: competitors
competitors:
ifneq ($(COMPETITORS),0)
	@bash .ci/need setpriv unshare $(COMPETITOR_COMMANDS) || echo "the benchmark goes on without them" >&2
endif

.PHONY: lab
lab: build ## Open a shell in a lab network on this machine: backend, balancer, master and CLIENTS=4 client hosts in namespaces
	@bash .ci/need $(NEED_LAB)
	$(CARGO_TARGET_DIR)/release/holdfast-bench lab $(if $(CLIENTS),--clients $(CLIENTS)) $(ARGS)

.PHONY: bench-lab
bench-lab: build locust-venv ## Drive a million users through a real Locust master and a worker on each of CLIENTS=4 hosts of the lab
	@bash .ci/need $(NEED_LAB) pdsh
	$(CARGO_TARGET_DIR)/release/holdfast-bench locust $(BENCH_LAB)

## bench-lab takes: USERS=1000000 RATE=20000 HOLD=60s EVERY=550s CLIENTS=4 HTTP=1 WEB=1 ARGS='more options'
BENCH_LAB = $(strip \
	$(if $(USERS),--users $(USERS)) \
	$(if $(RATE),--spawn-rate $(RATE)) \
	$(if $(HOLD),--hold $(HOLD)) \
	$(if $(EVERY),--interval $(EVERY)) \
	$(if $(CLIENTS),--clients $(CLIENTS)) \
	$(if $(HTTP),--http) \
	$(if $(WEB),--web) \
	$(ARGS))

.PHONY: bench-haproxy
bench-haproxy: build ## Measure what haproxy adds between client and server, and where it stops, direct and through it in one run
	@bash .ci/need $(NEED_LAB) $(if $(filter nginx,$(PROXY)),nginx-stream,haproxy)
	$(CARGO_TARGET_DIR)/release/holdfast-bench proxy $(BENCH_HAPROXY)

## bench-haproxy takes: PROXY=haproxy|nginx USERS=8000 ROUNDS=3 SCENARIOS=longconn,limit,http-64,http-20000 ARGS='more options' (--target HOST:PORT)
BENCH_HAPROXY = $(strip \
	$(if $(PROXY),--proxy $(PROXY)) \
	$(if $(USERS),--users $(USERS)) \
	$(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(SCENARIOS),--scenarios $(SCENARIOS)) \
	$(ARGS))

.PHONY: bench-relay
bench-relay: build ## Measure layer-4 relays: none, a bare loop, ours, haproxy with and without splice, nginx, in one run
	@bash .ci/need setpriv unshare haproxy nginx-stream || echo "bench-relay goes on without them" >&2
	$(CARGO) build --release --locked -p holdfast-engine --example bare_relay
	$(CARGO_TARGET_DIR)/release/holdfast-bench relay $(BENCH_RELAY)

## bench-relay takes: QUICK=1 ROUNDS=3 SCENARIOS=requests,bulk,half-load PAIRS=500000,1000000 USERS=8000 COMPETITORS=0 ARGS='more options'
BENCH_RELAY = $(strip \
	$(if $(QUICK),--quick) \
	$(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(SCENARIOS),--scenarios $(SCENARIOS)) \
	$(if $(PAIRS),--pairs $(PAIRS)) \
	$(if $(USERS),--users $(USERS)) \
	$(if $(filter 0,$(COMPETITORS)),--no-competitors) \
	$(ARGS))

.PHONY: report-shots
report-shots: ## Pictures of a run's report, light, dark and on a phone, into report-shots/ (RUN=latest, a folder, or a name in results/runs)
	@bash .ci/need $(NEED_BUILD) chromium chromedriver
	$(CARGO) build --locked -p holdfast-results --bins --examples
	report=$$($(CARGO_TARGET_DIR)/debug/holdfast-bench report $(or $(RUN),latest) | head -n 1); \
		$(CARGO_TARGET_DIR)/debug/examples/report_shots "$$report" report-shots

TESTBED = $(CARGO_TARGET_DIR)/release/examples

.PHONY: faults-build
faults-build: build
	@bash .ci/need $(NEED_FAULTS)
	$(COMMIT) $(CARGO) build --release --locked -p holdfast-testbed --examples

.PHONY: faults
faults: faults-build ## Inject real faults: links, losses, resets, floods, kills, stops, limits (root; FAULTS='link loss' for some, FAULTS=--list)
	$(TESTBED)/faults --bin-dir $(CARGO_TARGET_DIR)/release $(or $(FAULTS),$(DRILLS))

.PHONY: faults-million
faults-million: faults-build ## Kill client and server at a million connections: nothing is lost without being counted (root; USERS=1000000)
	$(TESTBED)/faults --bin-dir $(CARGO_TARGET_DIR)/release million $(if $(USERS),--users $(USERS))

# The name it had before 0.2.0.
.PHONY: drill
drill: faults-million

.PHONY: soak
soak: faults-build ## Hold 200,000 connections while 1,000 a second come and go: memory stays flat (root; MINUTES=30 USERS=200000)
	$(TESTBED)/faults --bin-dir $(CARGO_TARGET_DIR)/release soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(USERS),--users $(USERS))

.PHONY: bench-tune
bench-tune: faults-build ## Measure what single kernel settings are worth: the same run with and without them, in turn (USERS=300000 ROUNDS=3)
	$(TESTBED)/settings --bin-dir $(CARGO_TARGET_DIR)/release $(or $(USERS),300000) $(or $(ROUNDS),3)

.PHONY: tune-build
tune-build:
	@bash .ci/need $(NEED_BUILD)
	@$(CARGO) build --quiet --release --locked -p holdfast-sysctl

.PHONY: tune
tune: tune-build ## Show what this machine's kernel settings lack for so many connections, then set it (root)
	$(CARGO_TARGET_DIR)/release/holdfast-tune apply $(TUNE) $(ARGS)

## tune, tune-check take: ROLE=both|server|client|host CONNECTIONS=1000000 ARGS='more options' (--dry-run, --persist, --json)
TUNE = $(strip $(if $(ROLE),--role $(ROLE)) $(if $(CONNECTIONS),--connections $(CONNECTIONS)))

.PHONY: tune-check
tune-check: tune-build ## Check this machine's kernel settings against what so many connections want; changes nothing
	$(CARGO_TARGET_DIR)/release/holdfast-tune check $(TUNE) $(ARGS)

.PHONY: untune
untune: tune-build ## Put back the kernel settings that were there before make tune (root)
	$(CARGO_TARGET_DIR)/release/holdfast-tune restore $(ARGS)

# The dev profile: its overflow checks and debug assertions are worth more to a test than speed. The binaries are
# built first because the tests of one package run those of another, from the folder the tests themselves are in.
.PHONY: test
test: ## Run every test, also those that need other programs, browsers or root (`cargo test --workspace` runs the others)
	@bash .ci/need $(NEED_TEST)
	@client/locust/venv
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --locked --no-fail-fast -- --include-ignored

.PHONY: locust-venv
locust-venv: ## Install the Locust that the tests of holdfast-client worker run against into client/locust/.venv
	@bash .ci/need python3 python3-venv
	@client/locust/venv

.PHONY: fuzz
fuzz: ## Fuzz whatever reads bytes from outside, each target for TIME=60 seconds (TARGETS='chunked urls' for some)
	@bash .ci/need $(NEED_FUZZ)
	engine/fuzz/run $(or $(TIME),60) $(TARGETS)

.PHONY: loom
loom: ## Try every order in which threads may use what they share: the connection limiter and mailboxes
	@bash .ci/need $(NEED_BUILD)
	HOLDFAST_TEST_SECONDS_MAX=3600 RUSTFLAGS='--cfg loom' $(CARGO) test --locked --release --target-dir $(CARGO_TARGET_DIR)/loom -p holdfast-engine --lib loom_tests

# What reaches the kernel cannot run under Miri, and what loops for long would take hours.
.PHONY: miri
miri: ## Run the pure parts of the engine and of HTTP/1.1 under Miri (nightly)
	@bash .ci/need $(NEED_BUILD) cargo-miri
	$(CARGO) +nightly miri test --locked -p holdfast-engine --lib -- token:: slot:: wheel:: dial:: only_connections_make
	$(CARGO) +nightly miri test --locked -p holdfast-http1 --tests -- --skip random_bytes --skip encoded_payload \
		--skip lines_between --skip largest_size

# The standard library has to be built with it too, or its locks are not seen and every use of one is reported.
.PHONY: tsan
tsan: ## Run the engine's tests, real rings and threads, under ThreadSanitizer (nightly)
	@bash .ci/need $(NEED_BUILD) rust-src
	HOLDFAST_TEST_SECONDS_MAX=3600 RUSTFLAGS=-Zsanitizer=thread $(CARGO) +nightly test --locked -Zbuild-std --target "$$(rustc -vV | sed -n 's/^host: //p')" \
		--target-dir $(CARGO_TARGET_DIR)/tsan -p holdfast-engine --lib --test handlers

.PHONY: sim
sim: ## Run seeds of the simulator: SEEDS=100000 FROM=0 SCENARIO=echo|longconn|http
	@bash .ci/need $(NEED_BUILD)
	$(CARGO) build --release --locked -p holdfast-sim
	$(CARGO_TARGET_DIR)/release/holdfast-sim $(SIM)

SIM = $(strip --seeds $(or $(SEEDS),100000) \
	$(if $(FROM),--from $(FROM)) \
	$(if $(SCENARIO),--scenario $(SCENARIO)) \
	$(ARGS))

.PHONY: lint
lint: ## Check formatting, clippy, documentation, imports between files and crates, and licences, sources and Rust versions of dependencies, all offline
	@bash .ci/need $(NEED_LINT)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p holdfast-engine --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --quiet
	.ci/cycles --test
	.ci/cycles
	.ci/audit

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(abspath $(CARGO_TARGET_DIR))/tools/bin/cargo-deny

$(CARGO_DENY):
	$(CARGO) install cargo-deny --locked --version $(CARGO_DENY_VERSION) --root $(CARGO_TARGET_DIR)/tools

.PHONY: audit
audit: $(CARGO_DENY) ## Look for known vulnerabilities of dependencies (fetches the RustSec advisory database)
	@$(CARGO_DENY) --workspace --locked fetch db || { echo "audit: nothing was checked, the RustSec advisory database cannot be" \
		"fetched; next: make audit where https://github.com can be reached" >&2; exit 2; }
	$(CARGO_DENY) --workspace --locked check advisories

.PHONY: fmt
fmt: ## Format the code
	@bash .ci/need cargo cargo-fmt
	$(CARGO) fmt --all

.PHONY: clean-runs
clean-runs: ## Delete the recorded runs that git ignores; reference runs stay
	git clean -fdX -- results/runs
