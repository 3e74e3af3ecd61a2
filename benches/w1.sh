#!/bin/sh
# W1: a Dockerfile of three stages over 5,000 files, 100 MB: cold, no change, one file changed, twenty at once; quern beside BuildKit of docker
# 20.10 and 26.1 and buildah, alternating in one run. Prints every case and the ratios that are asked for.
#   benches/w1.sh WORK     root, Debian 12 with docker.io, buildah, runc, skopeo, debootstrap; WORK on the disk to measure, kept from run to run
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.." && cargo build --quiet --release -p quern-cli
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec python3 "$here/images" w1 "$1" "${QUERN:-$target/release/quern}"
