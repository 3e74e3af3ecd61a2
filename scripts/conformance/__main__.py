"""Builds every case with a builder and compares the images with what BuildKit made of them; see conformance.sh."""

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bases
import buildkit
import case as cases
import report
import running
import servers
from image import Image

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent.parent / "tests" / "dockerfiles"


def main():
    options = arguments()
    folder = options.cases.resolve()
    corpus = cases.load(folder, options.only)
    if options.small:
        corpus = [case for case in corpus if "debian" not in case.bases()]
    wanted = {base for case in corpus for base in case.bases()}
    work = Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.run:
        return run(work, options.quern)
    if options.record:
        return record(work, folder, corpus, wanted, options)
    return compare(work, folder, corpus, wanted, options)


def arguments():
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("work", help="folder for base images, docker and scratch; kept from run to run")
    parser.add_argument("--cases", type=Path, default=CORPUS, help="folder of the cases")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases with TEXT in their names")
    parser.add_argument("--record", action="store_true", help="build with BuildKit and write what it made")
    parser.add_argument("--run", action="store_true", help="have an image of quern's run by crun and docker, and pulled by skopeo")
    parser.add_argument("--quern", help="the program that is compared")
    parser.add_argument("--small", action="store_true", help="without the cases that need a Debian base")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases built at once")
    return parser.parse_args()


class Bench:
    """Builds cases in scratch folders of their own and reports on what came out."""

    def __init__(self, work, layouts):
        self.scratch = Path(tempfile.mkdtemp(prefix="cases-", dir=work))
        self.layouts = layouts
        self.started = time.time()  # a builder may share a step that two cases have in common
        self.bases = {path.name: Image(path) for path in layouts.iterdir() if not path.suffix}
        self.busybox = hashlib.sha256(Path(shutil.which("busybox")).read_bytes()).hexdigest()

    def build(self, case, builder, environment, failure):
        place = self.scratch / case.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        case.lay(place)
        output = place / "image.tar"
        command = [*builder, *case.arguments(place, self.layouts, output)]
        with servers.running(case, place) as words:
            done = subprocess.run([*command, *words], env=environment(case.environment()), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        log = done.stdout.decode("utf-8", "replace")
        (place / "log").write_text(log)
        if done.returncode != 0:
            return {"fails": failure(log, case.file)}
        found = report.of_image(Image(output), self.bases, self.started, case)
        for entry in found["entries"]:
            if entry.get("sha256") == self.busybox:  # differs between releases
                entry |= {"sha256": "busybox", "size": None}
        return found

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)


def record(work, folder, corpus, wanted, options):
    root = buildkit.fetch(work, bases.mirror())
    expected = folder / "expected"
    expected.mkdir(exist_ok=True)
    with buildkit.Daemon(work, root) as docker:
        parent = folder / "bases" / "parent"
        if "parent" in wanted and not options.only:
            layouts = bases.prepare(work, parent, {"busybox"})
            bases.record_parent(parent, docker.builder(), docker.environment(), layouts, work)
        layouts = bases.prepare(work, parent, wanted)
        # A file that an earlier recording made would be taken from the cache with its old time.
        docker.docker("builder", "prune", "--all", "--force", stdout=subprocess.DEVNULL)
        source = f"BuildKit of docker {docker.version()}"
        bench = Bench(work, layouts)
        for case in corpus:
            path = expected / f"{case.name}.json"
            if path.exists() and json.loads(path.read_text()).get("from", "").startswith("rules"):
                continue
            found = bench.build(case, docker.builder(), docker.environment, buildkit.failure)
            path.write_text(report.text({"from": source, **found}))
            print(f"{case.name}: " + (f"fails: {found['fails']}" if "fails" in found else
                                      f"{len(found['entries'])} entries, {len(found['layers'])} layers"))
        bench.close()
    return 0


def run(work, quern):
    root = buildkit.fetch(work, bases.mirror())
    layouts = bases.prepare(work, work / "none", {"busybox"})
    with buildkit.Daemon(work, root) as docker, tempfile.TemporaryDirectory(dir=work) as scratch:
        running.check(Path(scratch), layouts, quern, docker)
    return 0


def compare(work, folder, corpus, wanted, options):
    layouts = bases.prepare(work, folder / "bases" / "parent", wanted)
    bench = Bench(work, layouts)
    state = bench.scratch / "state"
    accepted = Accepted(folder / "differences.json")
    unjustified = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda case: outcome(bench, case, options.quern, folder), corpus)
        for case, found in zip(corpus, results):
            for difference in found:
                reason = accepted.reason(case.name, difference)
                unjustified += reason is None
                print(f"{case.name}: {difference}" + (f" [accepted: {reason}]" if reason else ""))
    for unused in accepted.unused(options.only):
        unjustified += 1
        print(f"differences.json: {unused} is no difference any more")
    if unjustified == 0:
        bench.close()
    print(f"{len(corpus)} cases, {accepted.count} differences accepted, {unjustified} not")
    return 1 if unjustified or not corpus else 0


def outcome(bench, case, quern, folder):
    # A state of its own: what another case copied would be taken over with its times.
    builder = [quern, "--state", str(bench.scratch / f"state-{case.name}"), "build"]
    expected = json.loads((folder / "expected" / f"{case.name}.json").read_text())
    try:
        found = bench.build(case, builder, lambda environment: environment, quern_failure)
    except Exception as error:  # the builder wrote something that is no image, or hung
        return [f"no readable image: {type(error).__name__}: {error}"]
    return list(report.differences(expected, found))


def quern_failure(log, dockerfile):
    named = re.search(re.escape(Path(dockerfile).name) + r":(\d+)", log)
    lines = [line for line in log.strip().splitlines() if line] or ["no word"]
    return {"line": int(named[1]) if named else None, "message": lines[-1]}


class Accepted:
    """The justified differences: [{"case": pattern, "difference": pattern, "reason": text}], patterns as in `re`."""

    def __init__(self, path):
        self.rules = json.loads(path.read_text()) if path.exists() else []
        self.used = [False] * len(self.rules)
        self.count = 0

    def reason(self, case, difference):
        for number, rule in enumerate(self.rules):
            if re.fullmatch(rule["case"], case) and re.search(rule["difference"], difference):
                self.used[number] = True
                self.count += 1
                return rule["reason"]
        return None

    def unused(self, partly):
        return [] if partly else [f"{rule['case']}: {rule['difference']}" for rule, used in
                                  zip(self.rules, self.used) if not used]


sys.exit(main())
