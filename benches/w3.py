#!/usr/bin/env python3
"""W3: a map over N files of 1 KiB and a reduce over all outputs, Quern beside ninja in one run.

  w3.py QUERN DIR [--n 10000] [--runs 5] [--cold 1] [--reduce yes|no]

QUERN is the program, DIR an empty directory on the disk to measure. Cases: cold (everything runs), null (nothing changed), 1% (every
100th file rewritten), add1 (one file more). ninja looks at modification times and has its description regenerated before add1 (not
timed); Quern compares content, is one `quern put file ... --flush` from a fresh process, and needs no description. The floor of the cold
case is the same program started N times in a bare loop, two at a time. Prints medians of wall time, processor time and
peak memory, and the ratio ninja / quern.
"""
import argparse, json, os, random, resource, shutil, statistics, subprocess, sys, time

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

def main():
    p = argparse.ArgumentParser()
    p.add_argument("quern"); p.add_argument("dir")
    p.add_argument("--n", type=int, default=10000); p.add_argument("--runs", type=int, default=5)
    p.add_argument("--reduce", default="yes")
    o = p.parse_args()
    quern, base, reduce = os.path.abspath(o.quern), os.path.abspath(o.dir), o.reduce == "yes"
    os.makedirs(f"{base}/root/bin"); os.makedirs(f"{base}/root/tmp")
    datum = f"{base}/root/bin/datum"
    subprocess.check_call(["gcc", "-O2", "-static", "-o", datum, f"{HERE}/datum.c"])
    for tool in ("ninja", "quern"):
        generate(f"{base}/{tool}/in", o.n)
    env = dict(os.environ, QUERN_STATE=f"{base}/state")
    image = f"dir:{base}/root"
    specs = [{"pipeline": {"name": "map"}, "transform": {"image": image, "cmd": ["/bin/datum", "map"]},
              "input": {"pfs": {"repo": "in", "glob": "/*/*"}}}]
    if reduce:
        specs.append({"pipeline": {"name": "total"}, "transform": {"image": image, "cmd": ["/bin/datum", "reduce"]},
                      "input": {"pfs": {"repo": "map", "glob": "/"}}})
    spec = f"{base}/spec.json"
    with open(spec, "w") as f:
        f.write("\n".join(json.dumps(s) for s in specs))
    subprocess.check_call([quern, "create", "repo", "in"], env=env)
    subprocess.check_call([quern, "create", "pipeline", "-f", spec], env=env, stderr=subprocess.DEVNULL)
    describe(f"{base}/ninja", datum, reduce)
    commands = {"ninja": ["ninja", "-j2"],
                "quern": [quern, "put", "file", "in@master:/", "-r", "-o", "-f", "in", "--flush", "--progress", "quiet"]}
    print("| case | tool | n | wall median | min - max | cpu | peak RSS |\n|---|---|---|---|---|---|---|")
    medians = {}
    for case in ("cold", "null", "1%", "add1"):
        runs = {"ninja": [], "quern": []}
        for number in range(1 if case == "cold" else o.runs):
            for tool in runs:
                edit(f"{base}/{tool}", case, number)
                if tool == "ninja" and case == "add1":
                    describe(f"{base}/ninja", datum, reduce)
                runs[tool].append(run(commands[tool], f"{base}/{tool}", env))
        for tool in runs:
            medians[case, tool] = row(case, tool, runs[tool])
    print()
    for case in ("cold", "null", "1%", "add1"):
        print(f"{case}: quern is {medians[case, 'ninja'] / medians[case, 'quern']:.2f}x as fast as ninja")
    if reduce:
        total = subprocess.check_output([quern, "get", "file", "total@master:/total"], env=env).decode()
        assert total == open(f"{base}/ninja/total").read(), "the two tools disagree"

main()
