#!/bin/sh
# Runs a Python pipeline that build.sh has built, with all arguments handed on.
set -eu

build=${PFS:-/pfs}/build
export PYTHONPATH="$build/deps${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1
cd "$build/app"
exec python3 "$build/app/main.py" "$@"
