#!/bin/sh
# Installs what the tests need and runs all of them: formatting, lints, house rules, tests.
# As root on Debian it installs missing packages; elsewhere it names them.
set -eu
cd "$(dirname "$0")/.."

need() { # program package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
missing=
need cc gcc
need python3 python3
[ -x /usr/bin/python3 ] || missing="$missing python3"
need busybox busybox-static
need crun crun
need skopeo skopeo
need docker-registry docker-registry
need curl curl
need openssl openssl
need setpriv util-linux
need newuidmap uidmap
need git git
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing:$missing"
        apt-get update -q >/dev/null
        # shellcheck disable=SC2086 # one word a package
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
    else
        echo "the tests need these packages:$missing" >&2
        exit 4
    fi
fi

cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings
cargo test --workspace --quiet
