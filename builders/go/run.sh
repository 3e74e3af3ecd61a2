#!/bin/sh
# Runs a Go pipeline that build.sh has built, with all arguments handed on.
set -eu

pfs=${PFS:-/pfs}
if [ -d "$pfs/source" ]; then
    cd "$pfs/source"
fi
exec "$pfs/build/main" "$@"
