"""W1, W5 and the RUN step of W6: image builds of quern beside BuildKit and buildah, in one run.

  images w1|w5|run WORK QUERN     WORK is kept: base image, docker's packages, stores; about 20 GB
env: BUILDERS="quern docker20 docker26 buildah"   (docker28 too is known)
     ROUNDS=5    of the quick cases; of each the median counts
"""

import os
import pathlib
import statistics
import sys
import time

import builders
import timing
import tree

ROUNDS = int(os.environ.get("ROUNDS", "5"))
BUILDERS = {"w1": "quern docker20 docker26 buildah", "w5": "quern docker26", "run": "quern docker20 docker26"}


class Table:
    """Runs by case and builder."""

    def __init__(self):
        self.runs = {}

    def add(self, case, builder, commands, weigh=True):
        found = timing.run(commands, builder.environment, builder.daemons, weigh)
        self.runs.setdefault(case, {}).setdefault(builder.name, []).append(found)

    def median(self, case, name, what="wall"):
        runs = [run for run in self.runs.get(case, {}).get(name, ()) if getattr(run, what) is not None]
        return statistics.median(getattr(run, what) for run in runs) if runs else None

    def best_buildkit(self, case, what="wall"):
        found = [self.median(case, name, what) for name in self.runs.get(case, {}) if name.startswith("docker")]
        return min(found, default=None)

    def print_runs(self):
        print("\n| case | builder | n | wall median | min - max | cpu | peak memory |\n|---|---|---|---|---|---|---|")
        for case, by_name in self.runs.items():
            for name, runs in by_name.items():
                walls = [run.wall for run in runs]
                print(f"| {case} | {name} | {len(runs)} | {seconds(statistics.median(walls))} "
                      f"| {seconds(min(walls))} - {seconds(max(walls))} | {seconds(self.median(case, name, 'cpu'))} "
                      f"| {mebibytes(max((run.memory or 0) for run in runs))} |")

    def print_goals(self, goals):
        """`goals`: (text, figure of the other, figure of ours, least ratio) or with a most instead."""
        print("\n| goal | other | quern | ratio | asked | |\n|---|---|---|---|---|---|")
        for text, other, ours, least in goals:
            if other is None or ours is None:
                continue
            ratio = other / ours
            reached = "reached" if ratio >= least else "**not reached**"
            print(f"| {text} | {figure(other)} | {figure(ours)} | {ratio:.2f} | {least:.3g} | {reached} |")


def seconds(value):
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s"


def mebibytes(value):
    return f"{value:.0f} MiB" if value else "-"


def figure(value):
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def note(text):
    print(f"# {time.strftime('%H:%M:%S')} {text}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


def rounds_of(builder, quick):
    return min(quick, 2) if builder.name == "buildah" else quick


def w1(work, known, seed):
    table, contexts = Table(), work / f"w1-{seed}"
    cold = [contexts / f"cold-{number}" for number in range(3)]
    for number, context in enumerate([*cold, contexts / "together"]):
        timing.apart(tree.application, context, seed + number)
    note("contexts made")
    for number, context in enumerate(cold):
        for builder in known:
            if number < rounds_of(builder, 3) - (builder.name == "buildah"):
                table.add("cold", builder, [builder.command("w1", context)])
    note("cold done")
    context = cold[0]
    source = sorted(context.glob("src/*/*/*"))[1000]
    asset = sorted(context.glob("assets/*/*/*"))[500]

    def append(file):
        return lambda number: tree.append(file, f"edit {seed} {number}\n")

    cases = (("no change", lambda _: None, ROUNDS), ("mtime only", lambda _: os.utime(source), ROUNDS),
             ("one asset changed", append(asset), min(ROUNDS, 3)), ("one source changed", append(source), min(ROUNDS, 3)))
    for builder in known:  # a first, untimed look: what follows compares warm with warm
        timing.run([builder.command("w1", context)], builder.environment)
    for case, edit, quick in cases:
        for number in range(quick):
            edit(number)
            for builder in known:
                if number < rounds_of(builder, quick) - (builder.name == "buildah" and "changed" in case):
                    table.add(case, builder, [builder.command("w1", context)], weigh="changed" in case)
        note(f"{case} done")
    for builder in known:
        table.add("no change, weighed", builder, [builder.command("w1", context)])
    for builder in known:
        if builder.name != "buildah":  # a minute and more
            commands = [builder.command(f"w1-{number}", contexts / "together") for number in range(20)]
            table.add("20 at once, cold", builder, commands)
            for _ in range(3):
                table.add("20 at once, no change", builder, commands)
            note(f"20 at once by {builder.name} done")
    table.print_runs()

    def against(case, least, what="wall"):
        return f"{case}, {what} against the better BuildKit", table.best_buildkit(case, what), table.median(case, "quern", what), least

    def buildah(case, least):
        return f"{case}, wall against buildah", table.median(case, "buildah"), table.median(case, "quern"), least

    nothing = table.median("no change", "quern")
    alone = table.median("cold", "quern")
    table.print_goals([
        against("no change", 8), buildah("no change", 100),
        ("mtime only within 1.2 of no change", scaled(nothing, 1.2), table.median("mtime only", "quern"), 1),
        against("one asset changed", 2.5), against("one source changed", 2.5),
        against("cold", 2), against("cold", 2.5, "cpu"), buildah("cold", 5),
        ("20 cold builds within 1.5 of one", scaled(alone, 1.5), table.median("20 at once, cold", "quern"), 1),
        against("20 at once, no change", 15),
        ("MiB of 20 cold builds together", 150, table.median("20 at once, cold", "quern", "memory"), 1),
        ("MiB of a build without change", 60, table.median("no change, weighed", "quern", "memory"), 1),
    ])


def scaled(value, factor):
    return value * factor if value is not None else None


def w5(work, known, seed):
    files, total = int(os.environ.get("FILES", "100000")), int(os.environ.get("BYTES", "2000000000"))
    table, context = Table(), work / f"w5-{files}"
    if not (context / "Dockerfile").exists():
        timing.apart(tree.write, f"{context}/tree", files, total, seed)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY tree /\n")
    paths = sorted(str(path) for path in context.glob("tree/*/*/*"))
    note("tree made")
    git = git_commands(context, work / f"git-{seed}")
    timed = {builder.name: builder for builder in [*known, git]}
    for case, edited, quick in (("cold", 0, 1), ("no change", 0, 3), ("1 % changed", 100, 2)):
        for number in range(quick):
            for path in paths[::edited] if edited else ():
                tree.append(path, f"edit {seed} {number}\n")
            for name, builder in timed.items():
                table.add(case, builder, [builder.command("w5", context)], weigh=case != "no change")
        note(f"{case} done")
    table.print_runs()

    def against(case, least, what="wall"):
        return f"{case}, {what} against BuildKit", table.best_buildkit(case, what), table.median(case, "quern", what), least

    table.print_goals([
        against("no change", 15), ("no change, wall against git add", table.median("no change", "git"), table.median("no change", "quern"), 1),
        against("1 % changed", 20), against("cold", 6, "cpu"),
        ("cold, cpu against git add", table.median("cold", "git", "cpu"), table.median("cold", "quern", "cpu"), 2),
    ])


def git_commands(context, folder):
    """`git add` of the tree, its objects not compressed: the quickest it can."""
    environment = {**os.environ, "GIT_DIR": str(folder), "GIT_WORK_TREE": str(context)}
    timing.run([["git", "init", "-q"]], environment)
    timing.run([["git", "config", "core.compression", "0"]], environment)
    return builders.Builder("git", lambda _, where: ["git", "-C", str(where), "add", "tree"], environment)


def run_step(work, known, seed):
    """What one more RUN step costs: a build of 41 of them less a build of one, by 40."""
    table = Table()
    for count, case in ((1, "one RUN"), (41, "41 RUN")):
        for number in range(ROUNDS):
            context = work / f"run-{seed}-{count}-{number}"
            context.mkdir()
            steps = "".join(f"RUN true {seed} {number} {step}\n" for step in range(count))
            (context / "Dockerfile").write_text("FROM benchbase\n" + steps)
            for builder in known:
                table.add(case, builder, [builder.command("run", context)])
    table.print_runs()

    def step(name):
        low, high = table.median("one RUN", name), table.median("41 RUN", name)
        return (high - low) / 40 if low and high else None

    print("\n| builder | ms a RUN step |\n|---|---|")
    for builder in known:
        print(f"| {builder.name} | {step(builder.name) * 1000:.2f} |")
    others = [step(builder.name) for builder in known if builder.name.startswith("docker")]
    table.print_goals([("a RUN step, wall against the better BuildKit", min(others, default=None), step("quern"), 20)])


def main():
    which, work, quern = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), sys.argv[3]
    work.mkdir(parents=True, exist_ok=True)
    names = os.environ.get("BUILDERS", BUILDERS[which]).split()
    seed = int(time.time())
    note("starts")
    with builders.started(work, names, quern, seed, anew=which == "w5") as known:
        note("builders ready")
        {"w1": w1, "w5": w5, "run": run_step}[which](work, known, seed)
    note("done")


main()
