# umbra: make demo and make test are all that a fresh Debian 12 machine needs.
# Both say what they install before they install it; Go and make they presume.

# Where https://go.dev/doc/install puts Go, for shells that were not told, and
# where Debian has tools that users seldom need.
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export CGO_ENABLED = 0
# A checkout that belongs to somebody else is built all the same.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

CONTROL ?=
TIMEOUT ?= 80m

.PHONY: all demo test test-apps test-browser test-outputs examples unit lint bench matrix generate generated xen xen-check xen-test xen-test-short umbra deps clean

all: umbra

# What is missing on this machine.
deps:
	@sh ci/deps.sh

umbra: deps
	@echo "umbra: compiling out/umbra"
	@go build -trimpath -o out/umbra ./cmd/umbra

# The main job, to look at: a guest that lives on while its NIC changes from
# e1000 to RTL8139 to virtio-net and back. CONTROL=1 leaves the shadow out.
demo: umbra
	@out/umbra demo $(if $(CONTROL),--control)

# Unit tests, then the VM tests; everything through go test.
test:
	@sh ci/deps.sh test
	go test -timeout $(TIMEOUT) ./...

# Programs from Debian's packages as witnesses, and a control without the shadow, in
# which they must fail; ten minutes, and a download.
test-apps: deps
	go test -count=1 -timeout $(TIMEOUT) -v ./ci/apptests -apps

# The status page in chromium, a download of 100 MB; out/browser shows what it sees.
test-browser:
	@sh ci/deps.sh browser
	go test -count=1 -timeout $(TIMEOUT) -v -tags browser ./ci/vmtests -run InABrowser

# Every output of umbra build is booted by the firmware it is for, signed and not, and
# looked at by the tools of those who made the formats; a quarter of an hour.
test-outputs:
	@sh ci/deps.sh outputs
	go test -count=1 -timeout $(TIMEOUT) -v ./ci/outputs -outputs

# The appliances of image/examples, built, booted, used and moved; two minutes, and a
# download.
examples: deps
	go test -count=1 -timeout $(TIMEOUT) -v ./ci/examples -examples

# Only what needs no VM.
unit: deps
	go test -short -timeout 10m ./...

lint: deps
	@sh ci/lint.sh

bench: deps
	go run ./ci/bench

# Every NIC to every NIC, and from every NIC the first move after a boot; more than an
# hour. It goes on where it stopped.
matrix: deps
	go run ./ci/matrix/cmd/matrix

# Guests on Xen hosts, stock and patched, which run inside QEMU, some of them two at a time;
# half an hour.
xen-test: xen
	@sh ci/deps.sh xen-test
	go test -count=1 -v -timeout 100m -parallel 2 -skip '^TestOneMove$$' ./ci/xentests -args -xen -patched $(CURDIR)/out/xen

# One move on one host, some minutes: on stock Xen and, if "make xen" was run, on the patched.
xen-test-short: deps
	go test -count=1 -v -timeout 30m -parallel 2 -run '^TestOneMove$$' ./ci/xentests -args -xen -patience 12m $(if $(wildcard out/xen/boot),-patched $(CURDIR)/out/xen)

# The eBPF objects are committed, and so are docs/operations.md and docs/matrix.md.
# generate makes them anew; generated fails if that makes a difference for the objects,
# and make test if it does for the documents. Both need clang and libbpf-dev.
generate:
	@sh ci/deps.sh clang
	go generate ./shadow/...
	go test -count=1 ./shadow/netshadow/settings -run '^TestDocument$$' -update
	go run ./ci/matrix/cmd/matrix -render

generated:
	@sh ci/deps.sh clang
	@sh ci/generated.sh

# Xen with the series of hypervisor-patches, from Debian's source: hypervisor,
# libraries, hvmloader and xl, in out/xen. The first time it takes minutes; then
# nothing is done unless the series changes. XEN_JOBS=2 uses two processors.
xen:
	@sh ci/deps.sh xen
	@sh hypervisor-patches/xen.sh build

# Whether the series applies without fuzz, and is as small as it has to be.
xen-check:
	@sh ci/deps.sh xen-source
	@sh hypervisor-patches/xen.sh check

clean:
	rm -rf out
