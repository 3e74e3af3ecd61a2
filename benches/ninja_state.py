#!/usr/bin/env python3
"""ninja_state.py DIR - makes every step of DIR/build.ninja up to date for ninja without running it.

Creates the outputs and writes .ninja_log (version 5) as ninja 1.11 does after a build: one line per output with the
MurmurHash64A of its command. Whoever uses it must see ninja say "no work to do".
"""
import os, sys, time

MASK, MULTIPLIER = (1 << 64) - 1, 0xC6A4A7935BD1E995


def murmur(text):
    rest = len(text) % 8
    value = 0xDECAFBADDECAFBAD ^ (len(text) * MULTIPLIER & MASK)
    for at in range(0, len(text) - rest, 8):
        word = int.from_bytes(text[at : at + 8], "little") * MULTIPLIER & MASK
        word = (word ^ word >> 47) * MULTIPLIER & MASK
        value = (value ^ word) * MULTIPLIER & MASK
    if rest:
        value = (value ^ int.from_bytes(text[-rest:], "little")) * MULTIPLIER & MASK
    value = (value ^ value >> 47) * MULTIPLIER & MASK
    return value ^ value >> 47


os.chdir(sys.argv[1])
lines = open("build.ninja").read().split("\n")
command = next(line.split("=", 1)[1].strip() for line in lines if line.startswith(" command ="))
outputs = [line[6:].split(":", 1)[0] for line in lines if line.startswith("build ") and ": mk " in line]
for output in outputs:
    with open(output, "w") as file:
        file.write("x\n")
now = time.time_ns()
with open(".ninja_log", "w") as log:
    log.write("# ninja log v5\n")
    for output in outputs:
        log.write(f"0\t1\t{now}\t{output}\t{murmur(command.replace('$out', output).encode()):x}\n")
