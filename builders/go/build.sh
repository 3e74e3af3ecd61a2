#!/bin/sh
# Builds a Go pipeline: the main package in /pfs/source to /pfs/out (run.sh and the program `main`).
# See the README of the builders for what the result depends on and for the variables that steer it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
pfs=${PFS:-/pfs}
source=$pfs/source
out=$pfs/out

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

command -v go >/dev/null ||
    fail "the image has no go; install it (Debian: apt-get install golang-go) or choose another image"

# A mounted cache makes the second build fast and never changes its result.
cache=${QUERN_CACHE:-/tmp}
export HOME="${HOME:-/tmp}"
export GOPATH="${GOPATH:-$cache/go}" GOCACHE="${GOCACHE:-$cache/go-build}" GOENV=off
# A static program without paths, times and version control in it; no other toolchain is downloaded.
export CGO_ENABLED="${CGO_ENABLED:-0}" GOTOOLCHAIN="${GOTOOLCHAIN:-local}"
export GOFLAGS="-trimpath -buildvcs=false${GOFLAGS:+ $GOFLAGS}"
go version

cd "$source"
if [ -f go.mod ]; then
    set -- .
else
    # Without a module the program is the Go files at the top, tests left out.
    set --
    for file in *.go; do
        case $file in
            *_test.go) ;;
            *) [ -f "$file" ] && set -- "$@" "./$file" ;;
        esac
    done
    [ $# -gt 0 ] ||
        fail "the source has no Go files; the main package must lie at the top of build.path"
fi
go build -ldflags "-s -w -buildid=" -o "$out/main" "$@" ||
    fail "go could not build the source; its own message is above"
[ -x "$out/main" ] && [ -f "$out/main" ] ||
    fail "the package at the top of the source is not a program; it must be \`package main\`"
cp "$here/run.sh" "$out/run.sh"
