# Gantry. `make help` lists the targets.
GO      ?= go
PREFIX  ?= /usr/local
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X gantry/internal/version.Version=$(VERSION)
TOOL    := $(GO) tool -modfile=$(CURDIR)/test/go.mod
BINARIES := $(notdir $(wildcard cmd/*))

export CGO_ENABLED ?= 0

.PHONY: help build install run test test-vm test-vm-engine test-vm-systemd test-vm-peers test-all flakes lint bench clean cross

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## static binaries into bin/
	@mkdir -p bin
	GOOS= GOARCH= $(GO) run ./internal/image/toolbox/mkimage -arch "$$($(GO) env GOARCH)" -o internal/image/toolbox/embed/toolbox.tar
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(filter-out toolbox gantry gantry-init gantry-runtime,$(BINARIES)))
	$(GO) build -trimpath -ldflags '$(LDFLAGS) -E gantry/internal/early.entry' -o bin/ ./cmd/gantry ./cmd/gantry-runtime
	$(GO) build -trimpath -ldflags '-s -w -E main.entry' -o bin/ ./cmd/gantry-init

install: build ## the binaries into $(PREFIX)/bin
	$(SUDO) install -d $(DESTDIR)$(PREFIX)/bin
	$(SUDO) install -m 0755 $(addprefix bin/,$(filter-out toolbox,$(BINARIES))) $(DESTDIR)$(PREFIX)/bin

run: build ## run a container, offline, and show what isolates it
	@$(SUDO) ./test/run.sh bin

test: ## every test that takes minutes, in namespaces of their own; installs what they need
	@$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" ./test/test.sh

test-vm: ## tests on pure cgroup v2 and Linux 6.1, in virtual machines: libraries and runtime, then the engine end to end
	@$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" ./test/vm/vm.sh $(if $(RUN),'$(RUN)')
	$(if $(RUN),,@$(MAKE) --no-print-directory test-vm-engine)

test-vm-engine: ## the engine's part of test-vm alone (RUN=command: that instead)
	@$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" ./test/vm/vm.sh --engine $(if $(RUN),'$(RUN)')

test-vm-systemd: ## the same beside a real systemd, with runc, crun and criu (RUN=command)
	@$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" ./test/vm/vm.sh --systemd $(if $(RUN),'$(RUN)')

test-vm-peers: ## docker, containerd and podman with our runtime on pure cgroup v2 (RUN=command)
	@$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" ./test/vm/vm.sh --peers $(if $(RUN),'$(RUN)')

flakes: ## every test RUNS=20 times on busy processors, or those of PKG=./oci; names what fails (LOGS=directory for the output)
	@$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" RUNS=$(or $(RUNS),20) RUN='$(RUN)' LOGS='$(LOGS)' ./test/flakes.sh $(PKG)

test-all: test test-vm test-vm-systemd test-vm-peers ## test, and the slower suites in virtual machines

lint: ## gofumpt, vet, staticcheck, errcheck
	@unformatted=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); \
	  [ -z "$$unformatted" ] || { echo "gofumpt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) errcheck -exclude test/errcheck.txt ./...
	cd test && $(GO) vet ./e2e ./runtime ./differential ./isolate/... && $(GO) tool staticcheck ./e2e ./runtime ./differential ./isolate/...

cross: ## build for arm64
	GOARCH=arm64 $(GO) build -o /dev/null ./... 
	GOARCH=arm64 $(GO) vet ./...

bench: build ## speed beside runc and crun, as ratios
	@$(SUDO) ./test/bench.sh bin

clean: ## remove bin/
	rm -rf bin internal/image/toolbox/embed/toolbox.tar
