#!/usr/bin/env python3
"""W3: a map over N files of 1 KiB and a reduce over all outputs, Quern beside ninja in one run.

  w3.py QUERN START DIR [--n 100000] [--runs 5]

QUERN is the program, START the example `start` of crates/exec (`cargo build --release -p quern-exec --example start`), DIR an
empty directory on the disk to measure. Cases: cold (everything runs), null (nothing changed), 1% (every 100th file rewritten),
add1 (one file more); then the same map alone, without the reduce: null and add1. ninja looks at modification times and has its
description regenerated before add1 (not timed); Quern compares content, is one `quern put file ... --flush` from a fresh
process, and needs no description. Besides: the map alone, cold, against the same sandbox with the same datum in a bare loop of
START (nothing hashed, nothing stored), for N/10 and N datums; and how the null run grows from N/100 to N. Prints medians of wall
time, processor time and peak memory, and ratios against the goals.
"""
import argparse, json, math, os, random, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))

def name(i):
    return f"{i // 1000:03d}/f{i:06d}"

def files(folder):
    return sorted(f"{d}/{f}" for d in os.listdir(folder) for f in os.listdir(f"{folder}/{d}"))

def generate(folder, n, seed=1):
    rng = random.Random(seed)
    pool = "".join(rng.choice("abcdefghij klmnop\n") for _ in range(1 << 20))
    for i in range(n):
        os.makedirs(os.path.dirname(f"{folder}/{name(i)}"), exist_ok=True)
        at = rng.randrange(len(pool) - 1024)
        with open(f"{folder}/{name(i)}", "w") as f:
            f.write((f"datum {i} seed {seed}\n" + pool[at:at + 1024])[:1024])

def describe(folder, datum, reduce):
    names = files(f"{folder}/in")
    for d in {n.split("/")[0] for n in names}:
        os.makedirs(f"{folder}/out/{d}", exist_ok=True)
    with open(f"{folder}/build.ninja", "w") as f:
        f.write(f"rule map\n command = {datum} map $in $out\nrule reduce\n command = {datum} reduce out total\n")
        f.writelines(f"build out/{n}: map in/{n}\n" for n in names)
        if reduce:
            f.write("build total: reduce | " + " ".join("out/" + n for n in names) + "\ndefault total\n")

def run(command, cwd, env=None):
    start = time.monotonic()
    child = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit(f"{command} failed: {error.decode()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss

def row(case, tool, runs):
    wall, cpu, rss = (statistics.median(r[i] for r in runs) for i in range(3))
    low, high = min(r[0] for r in runs), max(r[0] for r in runs)
    print(f"| {case} | {tool} | {len(runs)} | {wall:.3f} s | {low:.3f} - {high:.3f} | {cpu:.3f} s | {rss // 1024} MiB |",
          flush=True)
    return wall

def edit(folder, case, run_number):
    if case == "1%":
        for n in files(f"{folder}/in")[::100]:
            with open(f"{folder}/in/{n}", "a") as f:
                f.write(f"edit {run_number}\n")
    if case == "add1":
        with open(f"{folder}/in/000/g{run_number}", "w") as f:
            f.write(f"new {run_number}\n")

class Quern:
    """A state folder of its own with the map, and the reduce if wanted."""
    def __init__(self, program, base, name, n, reduce):
        self.program, self.folder, self.env = program, f"{base}/{name}", dict(os.environ, QUERN_STATE=f"{base}/{name}/state")
        generate(f"{self.folder}/in", n)
        image = f"dir:{base}/root"
        specs = [{"pipeline": {"name": "map"}, "transform": {"image": image, "cmd": ["/bin/datum", "map"]},
                  "input": {"pfs": {"repo": "in", "glob": "/*/*"}}}]
        if reduce:
            specs.append({"pipeline": {"name": "total"}, "transform": {"image": image, "cmd": ["/bin/datum", "reduce"]},
                          "input": {"pfs": {"repo": "map", "glob": "/"}}})
        with open(f"{self.folder}/spec.json", "w") as f:
            f.write("\n".join(json.dumps(s) for s in specs))
        self.call("create", "repo", "in")
        self.call("create", "pipeline", "-f", f"{self.folder}/spec.json")

    def call(self, *words):
        return subprocess.check_output([self.program, *words], env=self.env, stderr=subprocess.DEVNULL).decode()

    def flush(self):
        return run([self.program, "put", "file", "in@master:/", "-r", "-o", "-f", "in", "--flush", "--progress", "quiet"],
                   self.folder, self.env)

def beside_ninja(o, base, datum, medians):
    quern, ninja = Quern(o.quern, base, "quern", o.n, True), f"{base}/ninja"
    generate(f"{ninja}/in", o.n)
    describe(ninja, datum, True)
    def measure(names, suffix=""):
        for case in names:
            runs = {"ninja": [], "quern": []}
            for number in range(1 if case == "cold" else o.runs):
                for tool in runs:
                    edit(f"{base}/{tool}", case, f"m{number}" if suffix else str(number))
                    if tool == "ninja" and case == "add1":
                        describe(ninja, datum, not suffix)
                    runs[tool].append(run(["ninja", "-j2"], ninja) if tool == "ninja" else quern.flush())
            for tool in runs:
                medians[case + suffix, tool] = row(case + suffix, tool, runs[tool])
    measure(("cold", "null", "1%", "add1"))
    assert quern.call("get", "file", "total@master:/total") == open(f"{ninja}/total").read(), "the two tools disagree"
    quern.call("delete", "pipeline", "total")
    describe(ninja, datum, False)
    run(["ninja", "-j2"], ninja)
    measure(("null", "add1"), ", map alone")

def beside_a_bare_loop(o, base, medians):
    for n in (o.n // 10, o.n):
        quern = Quern(o.quern, base, f"map-{n}", n, False)
        loop = f"{base}/loop-{n}"
        os.makedirs(loop)
        case = f"cold map of {n}"
        medians[case, "bare loop"] = row(case, "bare loop", [run([o.start, f"{base}/root", str(n), "map", "2", loop], base)])
        medians[case, "quern"] = row(case, "quern", [quern.flush()])
        if n < o.n:
            medians[f"null of {n}", "quern"] = row(f"null of {n}", "quern", [quern.flush() for _ in range(o.runs)])
    quern = Quern(o.quern, base, "small", o.n // 100, False)
    quern.flush()
    medians[f"null of {o.n // 100}", "quern"] = row(f"null of {o.n // 100}", "quern", [quern.flush() for _ in range(o.runs)])

def main():
    p = argparse.ArgumentParser()
    p.add_argument("quern"); p.add_argument("start"); p.add_argument("dir")
    p.add_argument("--n", type=int, default=100000); p.add_argument("--runs", type=int, default=5)
    o = p.parse_args()
    o.quern, o.start, base = os.path.abspath(o.quern), os.path.abspath(o.start), os.path.abspath(o.dir)
    os.makedirs(f"{base}/root/bin"); os.makedirs(f"{base}/root/tmp")
    datum = f"{base}/root/bin/datum"
    subprocess.check_call(["gcc", "-O2", "-static", "-o", datum, f"{HERE}/datum.c"])
    os.symlink("datum", f"{base}/root/bin/true")
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n")
    print("| case | tool | n | wall median | min - max | cpu | peak RSS |\n|---|---|---|---|---|---|---|")
    medians = {}
    beside_ninja(o, base, datum, medians)
    beside_a_bare_loop(o, base, medians)
    print("\n| case | goal | measured |\n|---|---|---|")
    for case, goal in (("cold", ""), ("null", "3x"), ("1%", "1.6x"), ("add1", "1.4x"), ("null, map alone", ""), ("add1, map alone", "4x")):
        print(f"| {case}: ninja / quern | {goal} | {medians[case, 'ninja'] / medians[case, 'quern']:.2f}x |")
    for n in (o.n // 10, o.n):
        case = f"cold map of {n}"
        print(f"| {case}: quern / bare loop | 1.25x | {medians[case, 'quern'] / medians[case, 'bare loop']:.2f}x |")
    for small, large in ((o.n // 100, o.n // 10), (o.n // 10, o.n)):
        null = lambda n: medians["null, map alone" if n == o.n else f"null of {n}", "quern"]
        print(f"| growth of the null run, {small} to {large} | exponent 1.05 | {math.log10(null(large) / null(small)):.2f} |")
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")

main()
