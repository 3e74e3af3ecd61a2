#!/bin/sh
# Builds a Python pipeline: /pfs/source (main.py, requirements.txt, anything else) to /pfs/out (run.sh, app/, deps/).
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

# Nothing of the machine's own habits may change the result.
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 PYTHONHASHSEED=0
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-315532800}"
export HOME="${HOME:-/tmp}" LC_ALL=C.UTF-8

command -v python3 >/dev/null ||
    fail "the image has no python3; install it (Debian: apt-get install python3) or choose another image"
python3 --version
[ -f "$source/main.py" ] ||
    fail "the source has no main.py; the pipeline's program must be called main.py and lie at the top of build.path"

# A file with nothing but comments asks for nothing.
wants_packages() {
    [ -f "$source/requirements.txt" ] && grep -Eqv '^[[:space:]]*(#|$)' "$source/requirements.txt"
}

install_packages() {
    python3 -m pip --version ||
        fail "requirements.txt asks for packages but the image has no pip; install it (Debian: apt-get install python3-pip)"
    set -- --target "$out/deps" --no-compile --disable-pip-version-check --no-input \
        --no-warn-script-location --progress-bar off --requirement "$source/requirements.txt"
    if [ -d "$source/wheels" ]; then
        set -- "$@" --find-links "$source/wheels"
        # A wheelhouse is complete unless an index is named beside it.
        [ -n "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}" ] || set -- "$@" --no-index
    fi
    if [ -n "${QUERN_CACHE:-}" ]; then
        set -- "$@" --cache-dir "$QUERN_CACHE/pip"
    else
        set -- "$@" --no-cache-dir
    fi
    # PIP_ROOT_USER_ACTION: the builder owns its file system, so the usual warning about root is noise.
    (cd "$source" && PIP_ROOT_USER_ACTION=ignore python3 -m pip install "$@") ||
        fail "pip could not install what requirements.txt asks for; its own message is above"
    # Where a package came from is not part of what it is.
    find "$out/deps" -name direct_url.json -type f -exec rm -f {} +
    find "$out/deps" -path '*.dist-info/RECORD' -type f -exec sed -i '/\/direct_url\.json,/d' {} +
    # Compiled once here instead of at each start; the files refer to the place where the pipeline will see them, and are
    # never compared with the time of their source.
    python3 -m compileall -q -s "$out" -p /pfs/build --invalidation-mode unchecked-hash "$out/deps" ||
        echo "build.sh: some packages hold files that do not compile; they are used as they are" >&2
}

if wants_packages; then
    install_packages
fi

python3 "$here/normalise.py" "$source" "$out/app" || exit 1
cp "$here/run.sh" "$out/run.sh"
