#!/bin/sh
# lint.sh: gofmt, go vet, staticcheck, and the rules that keep umbra's walls.
set -eu
go=${GO:-go}
fail=0
bad() { echo "lint: $1" >&2; printf '%s\n' "$2" >&2; fail=1; }

out=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l)
[ -z "$out" ] || bad "gofmt wants to change:" "$out"
"$go" vet ./... || fail=1
"$go" vet -tags guest ./shadow/... || fail=1
"$go" run honnef.co/go/tools/cmd/staticcheck ./... || fail=1

out=$(git ls-files -co --exclude-standard '*.go' | xargs grep -LE '^// Copyright .* the umbra Authors|^// Code generated' || true)
[ -z "$out" ] || bad "no licence header:" "$out"
exit $fail
