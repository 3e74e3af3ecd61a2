#!/bin/sh
# Runs the word count example and says what happens: everything, then one changed text, then a changed comment.
# QUERN names the program to use; without it, the one of this checkout or the one in PATH is taken.
set -eu

examples=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "demo: $*" >&2
    exit 1
}

find_quern() {
    if [ -n "${QUERN:-}" ]; then
        command -v "$QUERN" || fail "QUERN is set to \`$QUERN\`, which is no program"
    elif [ -x "${CARGO_TARGET_DIR:-$examples/../target}/release/quern" ]; then
        echo "${CARGO_TARGET_DIR:-$examples/../target}/release/quern"
    else
        command -v quern || fail "there is no quern program yet; build it with \`cargo build --release\` or set QUERN"
    fi
}

# The image \`host\` shows the system's own programs, so a Python in a home directory does not help.
need_python() {
    for folder in /usr/local/bin /usr/bin /bin; do
        [ ! -x "$folder/python3" ] || return 0
    done
    install="apt-get install --yes --no-install-recommends python3"
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null && [ -z "${QUERN_DEMO_NO_INSTALL:-}" ]; then
        echo "demo: this machine has no python3, which the example is written in; running: $install"
        apt-get update -qq && $install >/dev/null && return 0
    fi
    fail "the example is written in Python and this machine has no python3; install it: $install"
}

say() {
    printf '\n== %s\n' "$*"
}

# Shows a command and runs it.
run() {
    printf '$ quern %s\n' "$*"
    "$quern" "$@"
}

quern=$(find_quern)
case $quern in
    /*) ;;
    *) quern=$PWD/$quern ;;
esac
need_python
work=$(mktemp -d "${TMPDIR:-/tmp}/quern-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cp -R "$examples/wordcount" "$work/wordcount"
cd "$work/wordcount"
export QUERN_STATE="$work/state"

say "1. Texts and two pipelines: the Python source is built, then every text is counted"
run create repo texts
run put file texts@master:/ -r -f texts
run create pipeline -f count.json
run create pipeline -f total.json
run flush commit texts@master
echo "the most frequent words:"
"$quern" get file total@master:/total.txt | head -n 5
run list job

say "2. One of eight texts changes: one datum is counted again"
printf 'stone upon stone upon stone\n' > texts/stones.txt
run put file texts@master:/stones.txt -o -f texts/stones.txt
run flush commit texts@master
run list job

say "3. A comment changes: the source is built again, the result is the same, nothing else runs"
printf '\n# A comment, and nothing but a comment.\n' >> source/main.py
run update pipeline -f count.json
run flush commit count_build@source
run list job

say "Why did the last job of \`count\` run, and what could it reuse?"
job=$("$quern" list job -p count -n 1 | awk 'NR == 2 { print $1 }')
run why "$job"
