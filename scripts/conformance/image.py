"""An image in the OCI layout, as a list of entries and a config that can be compared."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

OPAQUE = ".wh..wh..opq"
GONE = ".wh."


class Image:
    def __init__(self, path):
        """`path` is an OCI layout: a folder or a tar archive of one."""
        self.blobs = {}
        path = Path(path)
        self.open = open_folder(path) if path.is_dir() else open_archive(path)
        index = json.loads(self.open("index.json"))
        self.manifest = self.document(platform_manifest(index, self.document))
        self.config = self.document(self.manifest["config"])
        self.diff_ids = self.config["rootfs"].get("diff_ids") or []

    def document(self, descriptor):
        return json.loads(self.blob(descriptor))

    def blob(self, descriptor):
        content = self.open("blobs/" + descriptor["digest"].replace(":", "/"))
        found = "sha256:" + hashlib.sha256(content).hexdigest()
        if found != descriptor["digest"] or len(content) != descriptor["size"]:
            raise ValueError(f"blob {descriptor['digest']} is {found}, {len(content)} bytes")
        return content

    def layers(self):
        """The tar archive of each layer, lowest first, checked against the config's diff ids."""
        for descriptor, diff_id in zip(self.manifest.get("layers") or [], self.diff_ids, strict=True):
            content = unpacked(self.blob(descriptor))
            found = "sha256:" + hashlib.sha256(content).hexdigest()
            if found != diff_id:
                raise ValueError(f"layer {descriptor['digest']} unpacks to {found}, not {diff_id}")
            yield content

    def listing(self):
        """Path: entry, after all layers; and for each layer the sorted names in it, whiteouts included."""
        entries, names = {}, []
        for layer in self.layers():
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                members = [(clean(member.name), member) for member in archive]
                names.append(sorted(name for name, _ in members))
                apply(archive, members, entries)
        mark_hardlinks(entries)
        return {path: entry for path, entry in entries.items()}, names


def open_folder(path):
    return lambda name: (path / name).read_bytes()


def open_archive(path):
    archive = tarfile.open(path)
    return lambda name: archive.extractfile(name).read()


def platform_manifest(index, document):
    """The first manifest that is an image; attestations say platform unknown."""
    for descriptor in index["manifests"]:
        if descriptor.get("platform", {}).get("os") == "unknown":
            continue
        if "index" in descriptor["mediaType"] or "list" in descriptor["mediaType"]:
            return platform_manifest(document(descriptor), document)
        return descriptor
    raise ValueError("the layout holds no image")


def unpacked(content):
    if content[:2] == b"\x1f\x8b":
        return subprocess.run(["gzip", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    if content[:4] == b"\x28\xb5\x2f\xfd":
        return subprocess.run(["zstd", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content


def clean(name):
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"a layer holds the name {name}")
    return "/" + "/".join(parts)


def apply(archive, members, entries):
    """Puts one layer on top: first what it takes away from the layers below, then what it brings."""
    for path, _ in members:
        folder, _, name = path.rpartition("/")
        if name == OPAQUE:
            drop(entries, folder, keep_top=True)
        elif name.startswith(GONE):
            drop(entries, f"{folder}/{name[len(GONE):]}")
    for path, member in members:
        if path.rpartition("/")[2].startswith(GONE):
            continue
        if not member.isdir() and path in entries and entries[path]["type"] == "dir":
            drop(entries, path)
        if member.islnk():
            entries[path] = entries[clean(member.linkname)]
        else:
            entries[path] = describe(archive, member)


def drop(entries, path, keep_top=False):
    for other in [other for other in entries if other.startswith(path + "/")]:
        del entries[other]
    if not keep_top:
        entries.pop(path, None)


def describe(archive, member):
    kinds = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.CHRTYPE: "char",
             tarfile.BLKTYPE: "block", tarfile.FIFOTYPE: "fifo"}
    entry = {"type": kinds.get(member.type, "file"), "mode": f"{member.mode & 0o7777:04o}",
             "owner": f"{member.uid}:{member.gid}", "mtime": int(member.mtime)}
    if member.issym():
        entry["link"] = member.linkname
    elif entry["type"] in ("char", "block"):
        entry["device"] = f"{member.devmajor}:{member.devminor}"
    elif entry["type"] == "file":
        content = archive.extractfile(member).read()
        entry["size"] = len(content)
        if len(content) <= 400 and printable(content):
            entry["content"] = content.decode()
        else:
            entry["sha256"] = hashlib.sha256(content).hexdigest()
    xattrs = {key[len("SCHILY.xattr."):]: value for key, value in member.pax_headers.items()
              if key.startswith("SCHILY.xattr.")}
    if xattrs:
        entry["xattrs"] = {name: readable(value) for name, value in sorted(xattrs.items())}
    return entry


def printable(content):
    return all(32 <= byte < 127 or byte in (9, 10) for byte in content)


def readable(value):
    raw = value.encode("utf-8", "surrogateescape")
    return value if printable(raw) else "base64:" + base64.b64encode(raw).decode()


def mark_hardlinks(entries):
    """Names of one file name the first of them."""
    first = {}
    for path in sorted(entries):
        entry = entries[path]
        if id(entry) in first:
            entries[path] = {**entry, "hardlink": first[id(entry)]}
        else:
            first[id(entry)] = path
