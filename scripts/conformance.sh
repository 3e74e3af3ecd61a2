#!/bin/sh
# Compares the images that quern builds from the Dockerfiles of tests/dockerfiles with what BuildKit built from them.
#
#   scripts/conformance.sh WORK                 build with quern, compare with the recorded images entry by entry
#   scripts/conformance.sh WORK --record        first build with BuildKit (root, Debian's packages) and record
#   scripts/conformance.sh WORK --run           have an image of quern's run by crun and docker and pulled by skopeo
#   scripts/conformance.sh WORK --only TEXT     only cases with TEXT in their names; --help tells more
#
# WORK is kept from run to run: base images and docker are made once.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
cargo build --quiet --release -p quern-cli
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec python3 "$here/conformance" "$@" --quern "$target/release/quern"
