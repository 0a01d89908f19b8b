#!/bin/sh
# generated.sh makes the eBPF objects anew and fails if they are not, byte for
# byte, those that are committed. Another clang makes other code: then nothing is
# compared, and that is said.
set -eu

made_by=14 # Debian 12's
have=$(clang -dumpversion | cut -d. -f1)
if [ "$have" != "$made_by" ]; then
	echo "umbra: the eBPF objects were made by clang $made_by; this is $have: not compared" >&2
	exit 0
fi

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
objects=$(find shadow -name '*_bpfel.o' -o -name '*_bpfel.go')
[ -n "$objects" ] || { echo "umbra: no eBPF objects found" >&2; exit 1; }
for f in $objects; do
	mkdir -p "$before/$(dirname "$f")"
	cp -p "$f" "$before/$f"
done
go generate ./shadow/...
fail=0
for f in $objects; do
	cmp "$before/$f" "$f" || fail=1
done
[ $fail = 0 ] && echo "umbra: $(echo "$objects" | wc -l) generated files are what their sources make"
exit $fail
