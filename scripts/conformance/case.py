"""A case of the corpus: a folder with a Dockerfile, and what a builder is told about it.

tests/dockerfiles/NAME/         the context, with its Dockerfile; every Dockerfile says in a comment what it covers
tests/dockerfiles/NAME.json     optional, all members optional:
    args       more arguments of `buildx build`; FOLDER in them is the folder of the extra files
    file       the Dockerfile's path in the context, "Dockerfile"
    context    the folder of the context that is built, "."
    output     more parameters of the OCI output, for example "rewrite-timestamp=true"
    env        environment of the builder
    secrets    id: content of a file given as --secret
    ssh        true: a socket given as --ssh default
    extra      path: content of files outside the context, for named contexts
    http       true: build argument HTTP is the address of a server of the context's files
    git        path: content of the files of a repository whose address is build argument GIT
    tree       what Git cannot store, made in the context in this order; of each entry:
               path, and one of dir: true, content, link (symbolic), hardlink, fifo: true, size (a sparse file);
               mode ("4755"), owner ([uid, gid]), xattrs (name: text), mtime (seconds)
"""

import json
import os
import re
import shutil
import zlib
from pathlib import Path

# The modification time of the files of the first context: 2009-02-13. BuildKit takes a file for another case's
# that has the same name, size and time, so every case has a time of its own.
SOURCE_TIME = 1234567890
BASES = ("busybox", "debian", "parent")


class Case:
    def __init__(self, folder):
        self.folder = folder
        self.name = folder.name
        beside = folder.with_name(folder.name + ".json")
        self.about = json.loads(beside.read_text()) if beside.exists() else {}
        self.source_time = SOURCE_TIME + zlib.crc32(self.name.encode()) % 10000000
        self.file = self.about.get("file", "Dockerfile")

    def text(self):
        path = self.folder / self.file
        return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""

    def bases(self):
        """The base images that the Dockerfile or the arguments name."""
        told = self.text() + json.dumps(self.about.get("args", ()))
        return [base for base in BASES if re.search(rf"\b{base}\b", told)]

    def lay(self, work):
        """Makes context and extra files below `work`, the same bytes, modes and times everywhere."""
        context = work / "context"
        shutil.copytree(self.folder, context, symlinks=True)
        for path, content in self.about.get("extra", {}).items():
            extra = work / "extra" / path
            extra.parent.mkdir(parents=True, exist_ok=True)
            extra.write_text(content)
        for root in (context, work / "extra"):
            plain_modes(root)
        for entry in self.about.get("tree", ()):
            make(context, entry)
        for root in (context, work / "extra"):
            settle_times(root, self.source_time)
        for entry in self.about.get("tree", ()):
            if "mtime" in entry:
                os.utime(context / entry["path"], (entry["mtime"],) * 2, follow_symlinks=False)
        for secret, content in self.about.get("secrets", {}).items():
            (work / f"secret-{secret}").write_text(content)

    def arguments(self, work, layouts, output):
        """The arguments after `build`, the same for every builder."""
        words = ["-f", str(work / "context" / self.file)]
        for base in self.bases():
            words += ["--build-context", f"{base}=oci-layout://{layouts / base}:latest"]
        for secret in self.about.get("secrets", {}):
            words += ["--secret", f"id={secret},src={work / f'secret-{secret}'}"]
        if self.about.get("ssh"):
            words += ["--ssh", f"default={work / 'agent'}"]
        words += [word.replace("FOLDER", str(work / "extra")) for word in self.about.get("args", ())]
        more = self.about.get("output")
        words += ["-o", f"type=oci,dest={output}" + (f",{more}" if more else "")]
        return words + [str(work / "context" / self.about.get("context", "."))]

    def environment(self):
        return {**os.environ, **self.about.get("env", {})}

    def epoch(self):
        for word in self.about.get("args", ()):
            if word.startswith("SOURCE_DATE_EPOCH="):
                return int(word.split("=")[1])
        epoch = self.about.get("env", {}).get("SOURCE_DATE_EPOCH")
        return int(epoch) if epoch else None


def load(folder, only=()):
    """The cases of a folder in the order of their names."""
    found = [Case(entry) for entry in sorted(Path(folder).iterdir()) if is_case(entry)]
    return [case for case in found if not only or any(part in case.name for part in only)]


def is_case(entry):
    beside = entry.with_name(entry.name + ".json")
    return entry.is_dir() and (beside.exists() or (entry / "Dockerfile").exists())


def plain_modes(root):
    """Modes as Git knows them, whatever the umask of the checkout, and one owner."""
    for folder, _, files in os.walk(root):
        os.chmod(folder, 0o755)
        os.lchown(folder, 0, 0)
        for name in files:
            path = Path(folder, name)
            os.lchown(path, 0, 0)
            if not path.is_symlink():
                os.chmod(path, 0o755 if path.stat().st_mode & 0o100 else 0o644)


def settle_times(root, moment):
    for folder, folders, files in os.walk(root, topdown=False):
        for name in files + folders:
            os.utime(Path(folder, name), (moment, moment), follow_symlinks=False)
        os.utime(folder, (moment, moment))


def make(context, entry):
    path = context / entry["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.get("dir"):
        path.mkdir(exist_ok=True)
    elif "link" in entry:
        path.symlink_to(entry["link"])
    elif "hardlink" in entry:
        os.link(context / entry["hardlink"], path)
    elif entry.get("fifo"):
        os.mkfifo(path)
    elif "size" in entry:
        with open(path, "wb") as file:
            file.truncate(entry["size"])
    elif "content" in entry:
        path.write_text(entry["content"])
    if "owner" in entry:
        os.lchown(path, *entry["owner"])
    if "link" not in entry:
        os.chmod(path, int(entry.get("mode", "755" if path.is_dir() else "644"), 8))
    for name, value in entry.get("xattrs", {}).items():
        os.setxattr(path, name, value.encode(), follow_symlinks=False)
