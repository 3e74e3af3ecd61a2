"""What a build gave, in the form that is recorded and compared."""

import datetime
import json
import re

# Members of a config that differ from build to build or repeat what is compared elsewhere.
NOT_COMPARED = {"created", "rootfs", "history", "config", "docker_version", "container", "id"}


def of_image(image, bases, started, case):
    """`bases` maps names to base images; `started` is the second in which the builds began."""
    over, listing, below = None, None, {}
    entries, names = image.listing()
    for name, base in bases.items():
        ids = base.diff_ids
        if image.diff_ids[: len(ids)] == ids and (not over or len(ids) > len(bases[over].diff_ids)):
            over = name
    if over:
        below, listing = bases[over].listing()
    clock = Clock(started, case.source_time, case.epoch())
    changed = {path: clock.named(entry) for path, entry in entries.items() if below.get(path) != entry}
    gone = below.keys() - entries.keys()
    return {
        "over": over,
        "config": {**{key: value for key, value in image.config.items() if key not in NOT_COMPARED and value},
                   **{key: value for key, value in image.config.get("config", {}).items() if value}},
        "created": "epoch" if clock.of_text(image.config.get("created")) == "epoch" else "other",
        "history": [step(entry) for entry in image.config.get("history", [])[history_of(bases, over):]],
        "entries": [{"path": path, **changed[path]} for path in sorted(changed)],
        "removed": sorted(path for path in gone if parent(path) not in gone),
        "layers": [len(layer) for layer in names[len(listing or []):]],
        "whiteouts": [[name for name in layer if "/.wh." in name] for layer in names[len(listing or []):]],
    }


def parent(path):
    return path.rpartition("/")[0]


def history_of(bases, over):
    return len(bases[over].config.get("history", [])) if over else 0


def step(entry):
    kept = {key: entry[key] for key in ("created_by", "author") if entry.get(key)}
    if "created_by" in kept:
        kept["created_by"] = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", kept["created_by"])
    return {**kept, "empty": True} if entry.get("empty_layer") else kept


class Clock:
    """Turns modification times into what decided them."""

    def __init__(self, started, source, epoch):
        self.started, self.source, self.epoch = started, source, epoch

    def name(self, seconds):
        if seconds == self.source:
            return "source"
        if seconds == self.epoch:
            return "epoch"
        return "build" if seconds >= self.started - 2 else str(seconds)

    def named(self, entry):
        return {**entry, "mtime": self.name(entry["mtime"])}

    def of_text(self, text):
        if not text:
            return None
        moment = datetime.datetime.fromisoformat(text[:19] + "+00:00")
        return self.name(int(moment.timestamp()))


def text(report):
    """JSON with one line for each entry, so that changes can be read."""
    lines = []
    for key, value in report.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            inner = ",\n".join("    " + json.dumps(item, ensure_ascii=False) for item in value)
            lines.append(f"  {json.dumps(key)}: [\n{inner}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def differences(expected, found):
    """Lines `where: expected, found`, nothing if they agree."""
    if "fails" in expected or "fails" in found:
        yield from failures(expected.get("fails"), found.get("fails"))
        return
    for key in ("over", "created", "layers", "whiteouts", "removed"):
        if key in expected and expected[key] != found[key]:
            yield f"{key}: expected {show(expected[key])}, found {show(found[key])}"
    yield from members("config", expected.get("config"), found["config"])
    yield from members("entry", by_path(expected.get("entries")), by_path(found["entries"]))
    if "history" in expected:
        yield from steps(expected["history"], found["history"])


def failures(expected, found):
    if expected is None:
        yield f"fails: expected an image, found {found['message']}"
    elif found is None:
        yield f"fails: expected {expected['message']}, found an image"
    elif expected["line"] is not None and expected["line"] != found["line"]:
        yield f"fails: expected line {expected['line']}, found line {found['line']}: {found['message']}"


def members(kind, expected, found):
    if expected is None:
        return
    for key in sorted({*expected, *found}):
        want, have = expected.get(key), found.get(key)
        if want != have:
            yield f"{kind} {key}: expected {show(want)}, found {show(have)}"


def by_path(entries):
    if entries is None:
        return None
    return {entry["path"]: {key: value for key, value in entry.items() if key != "path"} for entry in entries}


def steps(expected, found):
    if len(expected) != len(found):
        yield f"history: expected {len(expected)} entries, found {len(found)}"
    for number, (want, have) in enumerate(zip(expected, found)):
        if want != have:
            yield f"history {number}: expected {show(want)}, found {show(have)}"


def show(value):
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
