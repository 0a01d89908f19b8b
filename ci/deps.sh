#!/bin/sh
# deps.sh installs what umbra needs on this machine and says so: QEMU for the
# demo and the VM tests, apt's list of packages for the guest's kernel; with the
# argument "test" the tools that some tests take into the guest and UEFI firmware,
# with "outputs" the tools that look at an image's outputs, with "browser" one to look
# at the status page, with "clang" the compiler of the eBPF objects, with "xen-source"
# and "xen" what it takes to patch and to build Xen, with "xen-test" the ssh that reaches
# the Xen hosts of the lab. Kernel package, Xen's source and Go modules are fetched by
# the programs themselves.
set -eu

say() { echo "umbra: $*" >&2; }

need_go=1.26
if ! command -v go >/dev/null 2>&1; then
	say "Go $need_go or newer is missing: see https://go.dev/doc/install"
	exit 1
fi
# In this module a Go from 1.21 on may fetch the toolchain that go.mod asks for;
# where it may not, or cannot, it says what it is somewhere else.
have_go=$(go env GOVERSION 2>/dev/null) || have_go=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
have_go=$(echo "$have_go" | sed 's/^go//; s/[^0-9.].*//')
if [ "$(printf '%s\n%s\n' "$need_go" "$have_go" | sort -V | head -n 1)" != "$need_go" ]; then
	say "Go $need_go or newer is needed, this is $have_go: see https://go.dev/doc/install"
	exit 1
fi

packages=
want() { # want COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
want_installed() { # want_installed PACKAGE... for what has no command to look for
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || packages="$packages $p"
	done
}
want qemu-system-x86_64 qemu-system-x86
case ${1:-} in
xen-source | xen)
	want dpkg-source dpkg-dev
	want patch patch
	want xz xz-utils
	;;
esac
case ${1:-} in
xen)
	want gcc gcc
	want bison bison
	want flex flex
	want iasl acpica-tools
	want autoconf autoconf
	want pkg-config pkg-config
	# Headers, and the BIOS that libxl gives HVM guests.
	want_installed libc6-dev python3-dev zlib1g-dev liblzma-dev libbz2-dev libzstd-dev libncurses-dev \
		uuid-dev libyajl-dev libaio-dev seabios
	;;
xen-test)
	want ssh openssh-client
	;;
browser)
	want chromium chromium
	want_installed fonts-dejavu-core
	;;
test)
	want ip iproute2
	want ethtool ethtool
	want debugfs e2fsprogs
	want_installed ovmf
	;;
outputs)
	want qemu-img qemu-utils
	want sgdisk gdisk
	want fsck.fat dosfstools
	want xorriso xorriso
	want xmllint libxml2-utils
	want sbsign sbsigntool
	want openssl openssl
	want_installed ovmf
	;;
clang)
	want clang clang
	want llvm-strip llvm
	[ -f /usr/include/bpf/bpf_helpers.h ] || packages="$packages libbpf-dev"
	;;
esac

if ! command -v apt-get >/dev/null 2>&1; then
	[ -z "$packages" ] && exit 0
	say "this machine has no apt-get; please install what Debian calls$packages"
	exit 1
fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"

# A machine made from a container image often has no list of packages, without
# which the guest's kernel is not found either.
update=
if [ -n "$packages" ] || ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
	update=yes
fi
[ -n "$update" ] || exit 0

sudo=
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null 2>&1; then
		say "please run as root: apt-get update${packages:+ && apt-get install$packages}"
		exit 1
	fi
	sudo=sudo
fi
say "reading the list of packages"
$sudo apt-get update -qq
[ -n "$packages" ] || exit 0
say "installing$packages"
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
