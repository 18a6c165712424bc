# Everything a checkout is built, checked, tested and run with; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
CACHE := $(or $(MERIDIAN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meridian)
# The place of a tool in the cache; its version is in its module.
tool = $(CACHE)/bin/$(1)@$(shell sed -n 's|^.*$(2) \(v[^ ]*\).*|\1|p' tools/$(1)/go.mod)

# Test packages at a time, and the limit of each. Servers and encoders run beside them.
TEST_PARALLEL ?= 2
TEST_TIMEOUT ?= 15m
TEST_PACKAGES ?= ./...
# Packages that start whole platforms or watch video in a browser run last and
# alone: they promise times, which mean nothing while other tests take the machine.
ALONE := /(drill|internal/platform|internal/e2e(/[a-z]+)?|web/playertest)$$
# What the last run of the long tests measured.
REPORT = docs/reports/test-long.md
packages = $$($(GO) list $(TEST_PACKAGES) | grep -E $(1) '$(ALONE)')

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: install tools build ## Install what is missing, build, and run the platform (ARGS="--regions eu")
	@bin/meridian up $(ARGS)

.PHONY: build
build: ## Build bin/meridian
	@$(GO) build -o bin/meridian .

.PHONY: install
install: ## Install the distribution's programs the platform runs
	@sh deploy/install.sh

.PHONY: install-develop
install-develop: ## Install also what the tests need
	@sh deploy/install.sh --develop

.PHONY: install-bench
install-bench:
	@sh deploy/install.sh --bench

.PHONY: tools
tools: ## Build MinIO and nats-server from pinned sources into the cache
	@$(GO) run ./tools/build

.PHONY: tools-test
tools-test: tools
	@$(GO) run ./tools/build pebble h2spec

.PHONY: tools-long
tools-long: tools-test
	@$(GO) run ./tools/build tofu

.PHONY: tools-develop
tools-develop:
	@$(GO) run ./tools/build -develop

.PHONY: tools-check
tools-check:
	@$(GO) run ./tools/build sqlc staticcheck

.PHONY: check
check: tools-check web-check ## Formatting, vet, staticcheck, generated code, tidy modules
	@echo 'check: gofmt'; out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not formatted (gofmt -w):" $$out; exit 1; }
	@echo 'check: go vet'; $(GO) vet ./...
	@echo 'check: staticcheck'; $(call tool,staticcheck,honnef.co/go/tools) ./...
	@echo 'check: sqlc'; $(call tool,sqlc,github.com/sqlc-dev/sqlc) diff
	@echo 'check: go mod tidy'; $(GO) mod tidy -diff

.PHONY: generate
generate: tools-check ## Generate the database code anew
	@$(call tool,sqlc,github.com/sqlc-dev/sqlc) generate

.PHONY: web
web: ## Build the player's bundle (committed) when its sources changed
	@sh tools/web.sh

.PHONY: web-check
web-check:
	@sh tools/web.sh --check

.PHONY: web-test
web-test:
	@sh tools/web.sh --test

.PHONY: test
test: install-develop tools-test web-test ## All tests that fit in twenty minutes, on real servers, with the race detector
	@$(GO) run ./internal/testenv/withservers \
		$(GO) test -race -timeout $(TEST_TIMEOUT) -p $(TEST_PARALLEL) $(call packages,-v)
	@$(GO) test -race -timeout 25m -p 1 $(call packages,)

.PHONY: test-long
test-long: install-develop tools-long web-test ## All tests with their full counts (hours); writes docs/reports/test-long.md
	@printf '# Report of make test-long\n\nCommit %s.\n\n' "$$(git describe --always --dirty)" > $(REPORT)
	@export MERIDIAN_TEST_LONG=1; $(GO) run ./internal/testenv/withservers \
		$(GO) test -race -json -shuffle on -timeout 60m -p $(TEST_PARALLEL) $(call packages,-v) | \
		$(GO) run ./internal/testenv/testreport -title 'Parts' $(REPORT)
	@export MERIDIAN_TEST_LONG=1; $(GO) test -race -json -timeout 180m -p 1 $(call packages,) | \
		$(GO) run ./internal/testenv/testreport -title 'Whole platforms' $(REPORT)

.PHONY: install-drill
install-drill:
	@sh deploy/install.sh --drill

.PHONY: drill
drill: install-drill tools build ## Drill an isolated platform (root): lose regions, routers, edges under load; drill-report/
	@bin/meridian drill run --own $(ARGS)

.PHONY: build-drill
build-drill: ## Build bin/meridian-drill, whose clock can be wrong, for the drill of wrong clocks
	@$(GO) run ./drill/clockbuild -o bin/meridian-drill

.PHONY: bench-go
bench-go: install-develop tools ## Go benchmarks of all packages
	@$(GO) test -run '^$$' -bench . -benchmem $(TEST_PACKAGES)

.PHONY: bench-edge
bench-edge: install-bench tools ## The edge beside nginx, Varnish and Traffic Server (ARGS="-rows tls,h2")
	@$(GO) run ./bench/edge $(ARGS)

.PHONY: bench-encode
bench-encode: install-develop tools ## The encoding pipeline beside bare ffmpeg (ARGS="-seconds 60 -rounds 3")
	@$(GO) run ./bench/encode $(ARGS)

.PHONY: bench-pertitle
bench-pertitle: install-develop ## Per-title encoding beside the ordinary ladder (ARGS="-only film -rungs")
	@$(GO) run ./bench/pertitle $(ARGS)

.PHONY: bench-dns
bench-dns: install-bench ## The name server beside gdnsd and Knot (ARGS="-rounds 5")
	@$(GO) run ./bench/dns $(ARGS)

.PHONY: bench-failover
bench-failover: install tools build ## Last wrong answers and false moves, 200 people near each region asking (root; ARGS="-faults kill,hang -rounds 3")
	@$(GO) run ./bench/failover $(ARGS)

.PHONY: bench-players
bench-players: install-bench tools ## Stock players, and ours, while regions are lost (root; ARGS="-players hls.js,mpv -faults kill")
	@sh tools/players.sh
	@$(GO) run ./bench/players $(ARGS)

.PHONY: clean
clean: ## Remove what was built here (the cache and the platform's state stay)
	@rm -rf bin web/node_modules bench/players/web/node_modules

include deploy/deploy.mk
