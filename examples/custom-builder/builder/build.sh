#!/bin/sh
# Builds a pipeline written in awk: all *.awk files of the source, in the order of their names, become one program.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
pfs=${PFS:-/pfs}

cd "$pfs/source"
ls ./*.awk >/dev/null 2>&1 || {
    echo "build.sh: the source has no *.awk files" >&2
    exit 1
}
# Comments go, so that a changed comment leads to the same program.
sed -e '/^[[:space:]]*#/d' ./*.awk > "$pfs/out/program.awk"
# A program that awk cannot read should fail here and not for each datum.
awk -f "$pfs/out/program.awk" /dev/null > /dev/null
cp "$here/run.sh" "$pfs/out/run.sh"
