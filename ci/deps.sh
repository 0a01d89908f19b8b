#!/bin/sh
# deps.sh installs what umbra needs on this machine and says so: QEMU for the
# demo and the VM tests, and with the argument "clang" the compiler of the eBPF
# objects. Kernel package and Go modules are fetched by the programs themselves.
set -eu

need_go=1.26
go=${GO:-go}
if ! command -v "$go" >/dev/null 2>&1; then
	echo "umbra: Go $need_go or newer is missing: see https://go.dev/doc/install" >&2
	exit 1
fi
have_go=$("$go" env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
if [ "$(printf '%s\n%s\n' "$need_go" "$have_go" | sort -V | head -n 1)" != "$need_go" ]; then
	echo "umbra: Go $need_go or newer is needed, this is $have_go" >&2
	exit 1
fi

packages=
want() { # want COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
want qemu-system-x86_64 qemu-system-x86
if [ "${1:-}" = clang ]; then
	want clang clang
	want llvm-strip llvm
	[ -f /usr/include/bpf/bpf_helpers.h ] || packages="$packages libbpf-dev"
fi
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "umbra: please install:$packages (this machine has no apt-get)" >&2
	exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		echo "umbra: please install as root:$packages" >&2
		exit 1
	fi
	sudo=sudo
fi
echo "umbra: installing$packages"
# shellcheck disable=SC2086 # a list of words
$sudo sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null"
