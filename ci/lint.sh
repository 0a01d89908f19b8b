#!/bin/sh
# lint.sh: gofmt, go vet, staticcheck, the walls of the tree and what its
# documents say of it.
set -u
fail=0
run() { # run NAME COMMAND...
	name=$1
	shift
	echo "lint: $name"
	"$@" || fail=1
}

formatted() {
	out=$(find . -name '*.go' -not -path './out/*' -not -path './.*' -exec "$(go env GOROOT)/bin/gofmt" -l {} +)
	[ -z "$out" ] && return
	echo "gofmt would change:"
	echo "$out"
	return 1
} >&2

run gofmt formatted
run "go vet" go vet ./...
# What is compiled for the inside of a guest, or to make test data.
run "go vet, tests that run in a guest" go vet -tags guest ./shadow/...
run "go vet, tests with a browser" go vet -tags browser ./ci/vmtests
run "go vet, captures" go vet -tags capture ./migrate/...
run staticcheck go tool staticcheck ./...
run "walls and documents" go test ./ci/archtest
exit $fail
