#!/bin/sh
# W6, image builds: what one more RUN step costs; quern beside BuildKit of docker 20.10 and 26.1, in one run.
#   benches/w6_run.sh WORK     root, Debian 12 with docker.io, buildah, runc, skopeo, debootstrap; WORK on the disk to measure, kept from run to run
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.." && cargo build --quiet --release -p quern-cli
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec python3 "$here/images" run "$1" "${QUERN:-$target/release/quern}"
