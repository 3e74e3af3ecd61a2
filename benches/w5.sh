#!/bin/sh
# W5: an image of a tree of 100,000 files, 2 GB: cold, no change, 1 % changed; quern beside BuildKit of docker 26.1 and git add, in one run.
#   benches/w5.sh WORK     root, Debian 12 with docker.io, buildah, runc, skopeo, debootstrap; WORK on the disk to measure, kept from run to run
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.." && cargo build --quiet --release -p quern-cli
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec python3 "$here/images" w5 "$1" "${QUERN:-$target/release/quern}"
