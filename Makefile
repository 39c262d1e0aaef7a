# Targets are named for what people do; `make` alone lists them.

GO     ?= go
PYTHON ?= python3
# How many packages are compiled and tested at a time.
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

# Without C, as releases are. What is compiled for the binary serves vet again.
PURE := CGO_ENABLED=0 $(GO)

VERSION       := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOLANGCI_LINT := v2.15.0
VERSITYGW     := v1.8.0

CACHE := $(CURDIR)/.cache
VENV  := $(CACHE)/venv
LINT  := $(CACHE)/golangci-lint-$(GOLANGCI_LINT)/golangci-lint
# An S3 server, for tests.
S3    := $(CACHE)/versitygw-$(VERSITYGW)/versitygw
# Apache Iceberg's tests of catalogs, in Java.
KIT   := $(CACHE)/kit
# PySpark, with Iceberg for it.
SPARK := $(CACHE)/spark

# The whole-product tests start the binary, and tests below test/ come last,
# when every part is known to work on its own.
PARTS = $$($(GO) list ./... | grep -v '/test$$')

.DEFAULT_GOAL := help
.PHONY: help build demo test test-short kit interop-spark java-lock sweep torture fuzz flights bench growth lint generate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/thermocline
	$(PURE) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/thermocline ./cmd/thermocline

demo: build ## stream a week of real earthquakes through a server, and go on serving
	bin/thermocline demo

test: $(VENV)/.ready $(S3) $(KIT)/.ready build cc ## install what the tests need, and run all of them with the race detector
	$(PURE) vet -trimpath ./...
	$(GO) test ./internal/lint
	THERMOCLINE_S3_SERVER='$(S3)' $(GO) test -race -p $(JOBS) -timeout 10m $(PARTS)
	@$(MAKE) --no-print-directory sweep
	cd interop && THERMOCLINE_BIN='$(CURDIR)/bin/thermocline' $(GO) test -race -count=1 -timeout 5m ./...
	THERMOCLINE_BIN='$(CURDIR)/bin/thermocline' THERMOCLINE_PYTHON='$(VENV)/bin/python' THERMOCLINE_S3_SERVER='$(S3)' \
		THERMOCLINE_KIT='$(KIT)' $(GO) test -race -count=1 -timeout 10m ./test

test-short: ## run the tests of the packages only, without the race detector
	$(GO) test -short -p $(JOBS) $(PARTS)

kit: $(KIT)/.ready build ## run Apache Iceberg's REST Compatibility Kit against the catalog (a part of make test)
	THERMOCLINE_BIN='$(CURDIR)/bin/thermocline' THERMOCLINE_KIT='$(KIT)' $(GO) test -count=1 -timeout 10m -v -run '^TestCompatibilityKit$$' ./test

interop-spark: $(SPARK)/.ready build ## have Apache Spark read, write and tend tables while their streams go on (the first time it downloads 480 MB)
	THERMOCLINE_BIN='$(CURDIR)/bin/thermocline' THERMOCLINE_SPARK='$(SPARK)/venv/bin/python' THERMOCLINE_SPARK_JARS='$(SPARK)/jars' \
		$(GO) test -count=1 -timeout 30m -v -run '^TestSpark' ./test

# Under the race detector, which makes everything several times slower, sweeps
# visit some of their places; here they visit each, and say how many. What is
# held of memory is measured here as well: the detector multiplies it.
SWEEPS := ./hotbuffer/disk ./dataset/... ./catalog ./cmd/thermocline/node

sweep: ## faults at every place: errors, crashes, full disks, lost answers, damage (THERMOCLINE_LONG=1: more of each)
	@mkdir -p $(CACHE)
	@$(PURE) test -trimpath -p $(JOBS) -count=1 -timeout 20m -v -run '^TestSweep|EveryStep$$|ErrorsAndCrashes$$|MemoryIsBounded$$' $(SWEEPS) >$(CACHE)/sweep.log 2>&1 || { \
		grep -v '^=== ' $(CACHE)/sweep.log; exit 1; }
	@grep -E '^(ok|--- )|sweep: ' $(CACHE)/sweep.log

# One run of everything that takes long. TORTURE_SEED repeats the faults of an
# earlier run, CYCLES (half of them kill or pause the server, a quarter do nothing)
# and KILLS say how many there are, MODELTIME how long random
# operations are held against a model.
CYCLES       ?= 440
KILLS        ?= 50
MODELTIME    ?= 2m
TORTURE_SEED ?=

torture: build $(VENV)/.ready ## kill or pause a server 200 times and more under load, cut it off, then hold every row against what was promised
	@THERMOCLINE_TORTURE_CYCLES=$(CYCLES) THERMOCLINE_TORTURE_SEED=$(TORTURE_SEED) \
		$(GO) test -count=1 -timeout 60m -v -run '^TestTorture$$' ./test
	@THERMOCLINE_BIN='$(CURDIR)/bin/thermocline' THERMOCLINE_PYTHON='$(VENV)/bin/python' THERMOCLINE_EXAMPLE_KILLS=$(KILLS) \
		$(GO) test -count=1 -timeout 30m -v -run '^TestExactlyOnceExamples$$' ./test
	@THERMOCLINE_TORTURE=$(MODELTIME) $(GO) test -count=1 -timeout 30m -v -run '^TestModel$$' ./cmd/thermocline/node
	@THERMOCLINE_LONG=1 $(MAKE) --no-print-directory sweep

# How long each fuzzer looks for new inputs. Their seeds, and what they found before, run with every test.
FUZZTIME ?= 20s

fuzz: ## let each fuzzer look for FUZZTIME (20s) for inputs that break a decoder
	@$(GO) list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r path dir; do \
		for f in $$(grep -hos '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6-); do \
			echo "$$path $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "$$path" || exit 1; \
		done; \
	done

flights: build ## kill and restart a server while FLIGHTS=file.ndjson.gz is ingested, then count its rows
	@test -f '$(FLIGHTS)' || { echo 'make flights: say which file: make flights FLIGHTS=flights.ndjson.gz' >&2; exit 1; }
	THERMOCLINE_BIN='$(CURDIR)/bin/thermocline' THERMOCLINE_FLIGHTS='$(abspath $(FLIGHTS))' \
		$(GO) test -count=1 -timeout 60m -v -run '^TestIngestSurvivesKills$$' ./test

bench: build ## print rows/s, MB/s and latencies (no thresholds); see bench/README.md
	$(GO) test -run '^$$' -bench . -benchtime 300ms -p 1 $(PARTS)
	$(GO) run ./bench
	$(GO) run ./bench -load

# A year of two-minute archives: make growth ARCHIVES=262800
ARCHIVES ?= 20000

growth: ## show how a dataset's metadata grows with ARCHIVES (20000) two-minute archives and the default upkeep
	$(GO) run ./bench -growth -archives $(ARCHIVES)

lint: $(LINT) ## run golangci-lint and the rules of internal/lint
	$(GO) test ./internal/lint
	$(LINT) run ./...
	cd interop && $(LINT) run ./...

generate: ## write generated code anew
	$(GO) generate ./...

clean: ## remove what make built and installed
	rm -rf bin .cache

# The race detector is a C library.
.PHONY: cc
cc:
	@command -v "$$($(GO) env CC | cut -d' ' -f1)" >/dev/null || { \
		echo 'make test: the race detector needs a C compiler, and there is none. On Debian or Ubuntu: apt-get install gcc libc6-dev' >&2; exit 1; }

# A virtual environment of its own: nothing is installed outside .cache.
$(VENV)/.ready: test/python/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'make test: the tests with PyIceberg and DuckDB need Python 3.11 or newer; name one with PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
		echo 'make test: Python lacks venv or pip. On Debian or Ubuntu: apt-get install python3-venv python3-pip' >&2; exit 1; }
	rm -rf '$(VENV)'
	$(PYTHON) -m venv '$(VENV)'
	'$(VENV)/bin/pip' install --quiet --disable-pip-version-check --only-binary :all: -r test/python/requirements.txt
	touch $@

# Maven finds what the tests in Java need, by the versions in test/*/pom.xml; what
# it brings has to be, byte by byte, what was locked.
#   $(call jars,NAME,FOLDER)
jars = rm -rf '$(2)' && mvn --quiet --batch-mode --strict-checksums -f test/$(1)/pom.xml dependency:copy-dependencies \
	-DincludeScope=runtime -DoutputDirectory='$(2)'
locked = cd '$(2)' && sha256sum --quiet --strict -c '$(CURDIR)/test/$(1)/jars.sha256' && test "$$(ls | wc -l)" = "$$(wc -l <'$(CURDIR)/test/$(1)/jars.sha256')"

$(KIT)/.ready: test/kit/pom.xml test/kit/jars.sha256 | jdk
	$(call jars,kit,$(KIT))
	$(call locked,kit,$(KIT))
	touch $@

$(SPARK)/.ready: test/spark/pom.xml test/spark/jars.sha256 test/spark/requirements.txt | jdk
	rm -rf '$(SPARK)'
	$(call jars,spark,$(SPARK)/jars)
	$(call locked,spark,$(SPARK)/jars)
	$(PYTHON) -m venv '$(SPARK)/venv'
	'$(SPARK)/venv/bin/pip' install --quiet --disable-pip-version-check --no-cache-dir -r test/spark/requirements.txt
	touch $@

java-lock: jdk
	$(call jars,kit,$(KIT)) && cd '$(KIT)' && sha256sum *.jar >'$(CURDIR)/test/kit/jars.sha256'
	$(call jars,spark,$(SPARK)/jars) && cd '$(SPARK)/jars' && sha256sum *.jar >'$(CURDIR)/test/spark/jars.sha256'

.PHONY: jdk
jdk:
	@command -v mvn >/dev/null && java -version >/dev/null 2>&1 || { \
		echo 'make: the tests with Java engines need Java 17 or newer, and Maven. On Debian or Ubuntu: apt-get install maven' >&2; exit 1; }

# Built from source, for the linter must be as new as the compiler.
$(LINT):
	GOBIN='$(dir $(LINT))' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)

# Built once; its source comes from the module proxy like every library's.
$(S3):
	GOBIN='$(dir $(S3))' $(PURE) install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW)
