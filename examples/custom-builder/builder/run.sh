#!/bin/sh
# Runs the program over every file of every input, with all arguments handed on to awk.
set -eu

pfs=${PFS:-/pfs}
for input in "$pfs"/*/; do
    case $input in
        "$pfs/source/" | "$pfs/build/" | "$pfs/out/") continue ;;
    esac
    for file in "$input"*; do
        awk "$@" -f "$pfs/build/program.awk" "$file" > "$pfs/out/$(basename "$file")"
    done
done
