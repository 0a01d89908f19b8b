#!/bin/sh
# xen.sh checks and builds the series for Xen in this directory.
#
#	xen.sh check	applies the series to Debian's source, without fuzz, and counts
#			its lines
#	xen.sh build	builds hypervisor, libraries, hvmloader and xl, and leaves them
#			in out/xen; a second run does nothing
#
# Debian's source package comes from apt, which verifies its signature, with lists
# of its own: the machine's /etc/apt/sources.list stays as it is. Sources and builds
# are kept in .cache/xen, named by the hash of what they were made from.
set -eu
cd "$(dirname "$0")/.."
self=hypervisor-patches/xen.sh

say() { echo "umbra: $*" >&2; }
die() {
	say "$*"
	exit 1
}

release=4.17 # of Xen, as in Debian's paths
series_max=500
hypervisor_max=150

patches=hypervisor-patches/xen-$release
cache=$PWD/.cache/xen
. "$patches/base" # version, suite, dsc_sha256

# The patches in order, one path a line.
series() {
	sed 's/#.*//; /^[[:space:]]*$/d' "$patches/series" | sed "s|^|$patches/|"
}

# fetch puts Debian's source package into the cache.
fetch() {
	dsc=$cache/$version/xen_$version.dsc
	[ -f "$dsc" ] && return
	say "fetching the source of Debian's xen $version"
	work=$cache/fetch.$$
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/lists/partial" "$work/apt/archives/partial" "$work/src"
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	echo "deb-src [signed-by=$keyring] http://deb.debian.org/debian $suite main" >"$work/sources.list"
	apt() {
		apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$work/sources.list" \
			-o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists" \
			-o Dir::Cache="$work/apt" "$@" >&2
	}
	apt update
	(cd "$work/src" && apt source --download-only "xen=$version") ||
		die "apt has no xen $version in $suite: another point release needs a look at $patches/base"
	echo "$dsc_sha256  $work/src/xen_$version.dsc" | sha256sum --check --quiet >&2 ||
		die "the source package is not the one in $patches/base"
	rm -rf "$cache/$version"
	mv "$work/src" "$cache/$version"
	rm -rf "$work"
	trap - EXIT
}

# unpack puts the source, with Debian's patches applied, into the directory $1.
unpack() {
	dpkg-source --no-check -x "$cache/$version/xen_$version.dsc" "$1" >/dev/null
	rm -rf "$1/.pc"
}

# apply puts the series on the source in the directory $1. A patch that would need
# fuzz fails; one that finds its lines elsewhere was made for another source.
apply() {
	series | while read -r p; do
		out=$(patch -d "$1" -p1 -F0 --no-backup-if-mismatch <"$p") ||
			die "$p does not apply: $out"
		case $out in
		*offset*) die "$p applies at another place than it says: $out" ;;
		esac
	done
}

# lines counts the added and removed lines of the patches, below the path $1.
lines() {
	series | xargs cat | awk -v below="$1" '
		/^From / { counts = 0 }
		/^diff --git / { counts = index($4, "b/" below) == 1; hunk = 0 }
		/^@@ / { hunk = 1 }
		/^-- $/ { hunk = 0 }
		counts && hunk && /^[-+]/ { n++ }
		END { print n + 0 }'
}

check() {
	unlisted=$(for p in "$patches"/*.patch; do series | grep -qxF "$p" || echo "$p"; done)
	[ -z "$unlisted" ] || die "not in $patches/series: $unlisted"
	series | while read -r p; do
		[ -f "$p" ] || die "$patches/series names $p, which does not exist"
		grep -q '^Subject: ' "$p" || die "$p has no subject"
		grep -q '^Signed-off-by: ' "$p" || die "$p is not signed off"
	done
	all=$(lines '')
	hypervisor=$(lines xen/)
	say "$(series | wc -l) patches, $all changed lines (at most $series_max), $hypervisor of them in the" \
		"hypervisor (at most $hypervisor_max)"
	[ "$all" -gt 0 ] && [ "$all" -le "$series_max" ] && [ "$hypervisor" -le "$hypervisor_max" ] ||
		die "the series has too many lines"
	tree=$(mktemp -d)
	trap 'rm -rf "$tree"' EXIT
	unpack "$tree/xen"
	apply "$tree/xen"
	say "the series applies to xen $version without fuzz"
}

# compile builds the part $1 of the patched source in the directory $2, and installs
# it below $3. It is Debian's own configuration (debian/rules), without what no patch
# needs: documentation, stub domains, OCaml, the PV shim.
compile() {
	jobs=${XEN_JOBS:-1}
	export DEB_VERSION="$version+umbra" DEB_MAINTAINER="umbra"
	export WGET=/bin/false GIT=/bin/false PYTHON=/usr/bin/python3
	# For the same bytes from the same source.
	SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$2/debian/changelog" -S Timestamp)
	XEN_BUILD_DATE=$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH")
	XEN_BUILD_TIME=$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" +%T)
	SMBIOS_REL_DATE=$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" +%m/%d/%Y)
	export SOURCE_DATE_EPOCH XEN_BUILD_DATE XEN_BUILD_TIME SMBIOS_REL_DATE
	"compile_$1" "$2" "$3"
}

# test_guest runs parts of libxenguest, built in the directory $1, on domains that are
# played: see the tests.
test_guest() {
	guest=$1/tools/libs/guest
	run() { # run TEST OBJECT...
		name=$1
		shift
		(
			cd "$guest"
			gcc -std=gnu11 -Wall -Werror -D_GNU_SOURCE -D__XEN_TOOLS__ \
				-D__XEN_INTERFACE_VERSION__=__XEN_LATEST_INTERFACE_VERSION__ -include ../../config.h \
				-I. -I../../include -I../ctrl -no-pie -Wl,--unresolved-symbols=ignore-all \
				-o "$name" "$tests/$name.c" "$@"
			"./$name"
		)
	}
	tests=$PWD/$patches/tests
	run device_writes xg_sr_save.o xg_sr_common.o
	run device_pages xg_sr_save_x86_pv.o xg_sr_restore_x86_pv.o xg_sr_common_x86_pv.o
	run dma_runs xg_sr_restore.o
}

# test_dsdt runs the handler of the hot-plug GPE that hvmloader, built in the directory
# $1, has for guests: with the bit for domains that opted in, all memory being ones,
# the VM generation ID device is notified, without it nothing is.
test_dsdt() {
	(
		cd "$1/tools/firmware/hvmloader"
		iasl -vs -p handler dsdt_anycpu_qemu_xen.asl
		handle() { acpiexec -fv "$1" -b 'execute \_GPE._E01' handler.aml </dev/null; }
		handle 255 | grep 'Notify on \[VGID\].*Value 0x80'
		! handle 0 | grep 'Notify on'
	)
}

compile_hypervisor() {
	cp "$1/debian/xen-kconfig" "$1/xen/.config"
	make -C "$1/xen" olddefconfig
	make -C "$1/xen" -j"$jobs"
	mkdir -p "$2/boot"
	cp "$1/xen/xen.gz" "$2/boot/xen-$release-amd64.gz"
}

compile_tools() {
	cp /usr/share/autoconf/build-aux/config.guess /usr/share/autoconf/build-aux/config.sub "$1"
	(
		cd "$1"
		./autogen.sh
		./configure --prefix=/usr --includedir=/usr/include --libdir=/usr/lib/x86_64-linux-gnu \
			--with-libexec-libdir-suffix=/x86_64-linux-gnu --with-libexec-leaf-dir="xen-$release" \
			--sysconfdir=/etc --localstatedir=/var --disable-docs --disable-stubdom --disable-ocamltools \
			--disable-golang --disable-pvshim --disable-qemu-traditional --disable-rombios \
			--with-system-qemu=/usr/libexec/xen-qemu-system-i386 \
			--with-system-ovmf=/usr/share/ovmf/OVMF.fd \
			--with-system-seabios=/usr/share/seabios/bios-256k.bin
	)
	make -C "$1/tools/include"
	# Debian's libxl is built without libnl, which is for Remus.
	make -C "$1/tools/libs" -j"$jobs" CONFIG_LIBNL=n
	test_guest "$1"
	make -C "$1/tools/xl" -j"$jobs"
	# They have libxl's structures on their stacks.
	make -C "$1/tools/helpers" -j"$jobs"
	make -C "$1/tools/firmware/hvmloader" -j"$jobs"
	test_dsdt "$1"

	lib=$2/usr/lib/x86_64-linux-gnu
	bin=$2/usr/lib/xen-$release/bin
	boot=$2/usr/lib/xen-$release/boot
	mkdir -p "$lib" "$bin" "$boot"
	for so in ctrl guest light; do
		cp -a "$1"/tools/libs/$so/libxen$so.so.* "$lib"
	done
	cp -a "$1"/tools/libs/util/libxlutil.so.* "$lib"
	cp "$1/tools/xl/xl" "$1/tools/libs/light/libxl-save-helper" "$bin"
	cp "$1/tools/helpers/xen-init-dom0" "$1/tools/helpers/init-xenstore-domain" "$bin"
	cp "$1/tools/firmware/hvmloader/hvmloader" "$boot"
	strip --strip-unneeded "$lib"/*.so.*.*.* "$bin"/*
}

# changes is what the series does to the files below the path $1, without what it
# says for people.
changes() {
	series | xargs cat | awk -v below="$1" '
		/^From / { keep = 0 }
		/^diff --git / { keep = index($4, "b/" below) == 1 }
		keep'
}

# part builds the part $1, which depends on what the series does below the path $2
# and on further files, unless it is in the cache, and copies it into $3.
part() {
	part=$1 below=$2 root=$3
	shift 3
	key=$({ cat "$patches/base" "$self" "$@" && changes "$below"; } | sha256sum | cut -c1-16)
	built=$cache/$part-$key
	if [ ! -d "$built" ]; then
		fetch
		work=$cache/work-$part
		rm -rf "$work" # what a run that was cut off left
		mkdir -p "$work"
		unpack "$work/xen"
		apply "$work/xen"
		say "building Xen's $part, some minutes; log: ${work#"$PWD"/}/log"
		# A process of its own, which ends when something fails.
		sh "$self" compile "$part" "$work/xen" "$work/root" >"$work/log" 2>&1 || {
			tail -n 20 "$work/log" >&2
			die "the build failed"
		}
		mv "$work/root" "$built"
		rm -rf "$work"
	fi
	cp -a "$built/." "$root"
}

build() {
	new=out/xen.new
	rm -rf "$new"
	mkdir -p "$new"
	part hypervisor xen/ "$new"
	part tools '' "$new" "$patches"/tests/*
	rm -rf out/xen
	mv "$new" out/xen
	say "out/xen has the hypervisor, libraries, hvmloader and xl, laid out as Debian's packages are"
}

case ${1:-} in
check)
	fetch
	check
	;;
build) build ;;
compile) compile "$2" "$3" "$4" ;;
*) die "usage: $0 check|build" ;;
esac
