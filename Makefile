# umbra: make demo and make test are all that a fresh Debian 12 machine needs.
# Both say what they install before they install it; Go and make they presume.

GO       ?= go
export CGO_ENABLED = 0
GOFLAGS  += -trimpath
CONTROL  ?=
TESTTIME ?= 25m
BENCHOUT ?= out/bench

.PHONY: all demo test unit lint bench generate umbra deps clean

all: umbra

deps:
	@GO="$(GO)" sh ci/deps.sh

umbra: deps
	@$(GO) build -trimpath -o out/umbra ./cmd/umbra

# The main job, to look at: a guest that lives on while its NIC changes from
# e1000 to RTL8139 to virtio-net and back. CONTROL=1 leaves the shadow out.
demo: umbra
	@out/umbra demo $(if $(CONTROL),--control)

# Unit tests, then the VM tests; everything through go test.
test: deps
	$(GO) test -timeout $(TESTTIME) ./...

# Only what needs no VM.
unit: deps
	$(GO) test -short -timeout 10m ./...

lint: deps
	@sh ci/lint.sh

bench: deps
	$(GO) run ./ci/bench -out $(BENCHOUT)

# The eBPF objects are committed; this makes them anew (needs clang and libbpf-dev).
generate:
	@sh ci/deps.sh clang
	$(GO) generate ./shadow/...

clean:
	rm -rf out
