# Hanse. 'make help' shows what there is to make.

SHELL       := /bin/sh
GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
MODULES     := proto pkg services tools
FUZZTIME    ?= 3s
TESTFLAGS   ?= -race -timeout 40m

# What 'make run' passes on: SERVER_NAME, DATA, CLIENT_PORT, CA. See deploy/dev/run.sh. 'make run-cluster' takes CLUSTERS,
# DATA and PORT.
export SERVER_NAME DATA CLIENT_PORT CA

.PHONY: help run run-cluster build test check lint generate generated tidy vet unit fuzz figures interop chart clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: ## run a server with all roles in one process (installs PostgreSQL if it is missing)
	@deploy/dev/install.sh run
	@[ -e bin/hanse ] || echo "Building Hanse. The first time Go downloads its modules and compiles them, which takes minutes."
	@$(MAKE) --no-print-directory build bin/dev-cert
	@deploy/dev/run.sh

run-cluster: ## run a cluster with two replicas of each role; CLUSTERS=2 for two that federate, PORT=9448 for other ports
	@deploy/dev/install.sh cluster
	@$(MAKE) --no-print-directory build bin/run-cluster
	@bin/run-cluster run --clusters $(or $(CLUSTERS),1) --dir $(or $(DATA),run) --port $(or $(PORT),8448)

build: bin/hanse ## build bin/hanse

.PHONY: bin/hanse bin/dev-cert bin/run-cluster
bin/hanse:
	$(GO) build -ldflags '-s -w -X main.version=$(VERSION)' -o $@ hanse/services/cmd/hanse

bin/dev-cert bin/run-cluster:
	$(GO) build -o $@ hanse/tools/cluster/cmd/$(@F)

test: ## everything that must hold: generated code, go.mod files, lint, vet, tests with the race detector, short fuzzing, end to end
	@deploy/dev/install.sh test
	@[ -e bin/golangci-lint ] || echo "The first time this builds its tools from source, too: tens of minutes on two cores, 10 GB of disk."
	@$(MAKE) --no-print-directory generated tidy lint vet unit chart fuzz

unit: bin/versitygw ## all tests, end-to-end tests too
	@set -e; for m in proto pkg services; do echo "== test $$m"; (cd $$m && $(GO) test $(TESTFLAGS) ./...); done
	@echo "== test tools"; cd tools && $(GO) test $(TESTFLAGS) -p 1 ./... # whole clusters: one package after the other

tidy: ## check that the go.mod and go.sum of each module say what it imports, without the workspace's help
	@set -e; for m in $(MODULES) tools/chart tools/dendrite tools/gen tools/lint tools/versitygw; do \
		(cd $$m && GOWORK=off $(GO) mod tidy -diff) || { echo "Run GOWORK=off go mod tidy in $$m." >&2; exit 1; }; done

vet:
	@set -e; for m in $(MODULES); do (cd $$m && $(GO) vet ./...); done; cd tools && $(GO) vet -tags interop ./interop/... && $(GO) vet -tags goolm ./e2e/gomatrix

lint: bin/golangci-lint ## golangci-lint, with the import law
	@set -e; for m in $(MODULES); do echo "== lint $$m"; (cd $$m && ../bin/golangci-lint run --config ../.golangci.yml ./...); done

fuzz: ## every fuzzer for FUZZTIME (3s)
	@GO=$(GO) deploy/dev/fuzz.sh $(FUZZTIME) pkg services tools

generate: bin/buf bin/protoc-gen-go bin/protoc-gen-go-grpc bin/sqlc ## generate code from .proto and .sql files
	PATH="$(CURDIR)/bin:$$PATH" bin/buf generate
	bin/sqlc generate

generated: generate ## check that the generated code is what its sources say
	@git diff --exit-code --stat -- '*.pb.go' pkg/userdb/db || \
		{ echo "The generated code is out of date: commit what 'make generate' made." >&2; exit 1; }

chart: ## render the Helm chart, and hold alerts, dashboards, compose file and docs/operating.md to the code
	@deploy/dev/install.sh chart
	PATH="$(CURDIR)/bin:$$PATH" promtool check rules deploy/prometheus/alerts.yaml
	PATH="$(CURDIR)/bin:$$PATH" promtool test rules deploy/prometheus/alerts_test.yaml
	cd tools/chart && GOWORK=off $(GO) vet ./... && GOWORK=off $(GO) test -count=1 ./... # what it reads lies outside of its module: no cache

figures: ## measure the tables of docs anew and print them; SIZE=10000 leaves out larger rooms, TABLES, COUNT, REPORTS, WRITE=1: docs/performance.md
	@cd tools && $(GO) run ./figures --root .. --size $(or $(SIZE),0) --count $(or $(COUNT),3) \
		$(if $(REPORTS),--reports $(abspath $(REPORTS))) $(if $(WRITE),--write) $(TABLES)

interop: ## run beside Synapse (installs it from PyPI into a virtual environment) and Dendrite (builds it from its Go module)
	@deploy/dev/install.sh interop
	@$(MAKE) --no-print-directory bin/dendrite
	@cd tools && $(GO) test -timeout 40m -count=1 -tags interop -v ./interop/...

# Tools of other modules, built once for each version.
bin/golangci-lint: tools/lint/go.mod
	cd tools/lint && GOWORK=off $(GO) build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/buf: tools/gen/go.mod
	cd tools/gen && GOWORK=off $(GO) build -o ../../$@ github.com/bufbuild/buf/cmd/buf
bin/sqlc: tools/gen/go.mod
	cd tools/gen && GOWORK=off $(GO) build -o ../../$@ github.com/sqlc-dev/sqlc/cmd/sqlc
bin/protoc-gen-go: tools/gen/go.mod
	cd tools/gen && GOWORK=off $(GO) build -o ../../$@ google.golang.org/protobuf/cmd/protoc-gen-go
bin/protoc-gen-go-grpc: tools/gen/go.mod
	cd tools/gen && GOWORK=off $(GO) build -o ../../$@ google.golang.org/grpc/cmd/protoc-gen-go-grpc
bin/dendrite: tools/dendrite/go.mod
	cd tools/dendrite && GOWORK=off $(GO) build -o ../../$@ github.com/matrix-org/dendrite/cmd/dendrite
bin/versitygw: tools/versitygw/go.mod
	cd tools/versitygw && GOWORK=off $(GO) build -o ../../$@ github.com/versity/versitygw/cmd/versitygw

clean: ## remove what was built; data directories stay
	rm -rf bin
