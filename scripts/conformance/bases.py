"""The base images of the corpus, as OCI layouts in a folder: made once, then kept.

busybox   the machine's static busybox with its applets as links, and some users
parent    busybox and layers that docker made (tests/dockerfiles/bases/parent): environment, user, working folder,
          triggers, files that a later layer removes
debian    debootstrap's minimal bookworm, with setcap and setfattr
"""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from image import Image

BASE_TIME = 1000000000
FOLDERS = ("bin dev etc home home/app proc root run sbin sys tmp usr usr/bin usr/sbin usr/share var var/tmp").split()
PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
web:x:33:34:web:/var/www:/bin/false
"""
GROUP = "root:x:0:\ndaemon:x:1:\nstaff:x:50:app\napp:x:1000:\nwww:x:34:web\nlogs:x:60:app,web\n"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def prepare(work, recorded, wanted):
    """The folder in which each wanted base is a layout of its name."""
    layouts = work / "bases"
    layouts.mkdir(parents=True, exist_ok=True)
    if not (layouts / "busybox").exists():
        write(layouts / "busybox", {"config": {"Env": [PATH], "Cmd": ["sh"]}}, [busybox_layer()])
    if "parent" in wanted and (recorded / "config.json").exists():
        shutil.rmtree(layouts / "parent", ignore_errors=True)
        config = json.loads((recorded / "config.json").read_text())
        layers = [gzip.decompress(path.read_bytes()) for path in sorted(recorded.glob("*.tar.gz"))]
        write(layouts / "parent", config, [busybox_layer(), *layers])
    if "debian" in wanted and not (layouts / "debian").exists():
        write(layouts / "debian", {"config": {"Env": [PATH], "Cmd": ["bash"]}}, [debian_layer(work)])
    return layouts


def record_parent(folder, builder, environment, layouts, work):
    """Builds the Dockerfile in `folder` with docker and keeps what it put on busybox."""
    output = work / "parent.tar"
    subprocess.run([*builder, "--build-context", f"busybox=oci-layout://{layouts / 'busybox'}:latest",
                    "-o", f"type=oci,dest={output}", str(folder)], env=environment, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    image = Image(output)
    for old in folder.glob("*.tar.gz"):
        old.unlink()
    for number, layer in enumerate(list(image.layers())[1:], 1):
        (folder / f"{number}.tar.gz").write_bytes(gzip.compress(layer, 9, mtime=0))
    config = {"config": image.config["config"], "history": image.config["history"][1:]}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    output.unlink()


def busybox_layer():
    program = Path(shutil.which("busybox")).read_bytes()
    applets = subprocess.run(["busybox", "--list-full"], stdout=subprocess.PIPE, check=True, text=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in FOLDERS:
            add(archive, folder, tarfile.DIRTYPE, 0o1777 if folder.endswith("tmp") else 0o755,
                owner=1000 if folder == "home/app" else 0)
        add(archive, "bin/busybox", tarfile.REGTYPE, 0o755, content=program)
        for applet in sorted(set(applets.split()) - {"bin/busybox", "usr/bin/busybox", "linuxrc"}):
            add(archive, applet, tarfile.SYMTYPE, 0o777, link="/bin/busybox")
        add(archive, "etc/passwd", tarfile.REGTYPE, 0o644, content=PASSWD.encode())
        add(archive, "etc/group", tarfile.REGTYPE, 0o644, content=GROUP.encode())
    return content.getvalue()


def add(archive, name, kind, mode, content=b"", link="", owner=0):
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, mode, BASE_TIME
    member.size, member.linkname, member.uid, member.gid = len(content), link, owner, owner
    archive.addfile(member, io.BytesIO(content))


def debian_layer(work):
    root = work / "debootstrap"
    if not (root / "done").exists():
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", "--include=libcap2-bin,attr", "bookworm", str(root / "root"),
                        mirror()], check=True, stdout=subprocess.DEVNULL)
        (root / "done").touch()
    tar = ["tar", "-C", str(root / "root"), "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*",
           "--exclude=./var/cache/apt/archives/*.deb", "--numeric-owner", "-cf", "-", "."]
    return subprocess.run(tar, stdout=subprocess.PIPE, check=True).stdout


def mirror():
    """Where this machine gets its own packages from."""
    for listed in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        for word in listed.read_text().split() if listed.exists() else ():
            if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                return word
    raise RuntimeError("no Debian mirror among this machine's sources of packages")


def write(folder, config, layers):
    """An OCI layout with one image, tagged latest; it appears whole or not at all."""
    made = folder.with_name(folder.name + ".made")
    shutil.rmtree(made, ignore_errors=True)
    (made / "blobs" / "sha256").mkdir(parents=True)
    descriptors, diff_ids = [], []
    for layer in layers:
        packed = gzip.compress(layer, 6, mtime=0)
        diff_ids.append("sha256:" + hashlib.sha256(layer).hexdigest())
        descriptors.append(put(made, "application/vnd.oci.image.layer.v1.tar+gzip", packed))
    history = [{"created_by": "base"}, *config.get("history", [])]
    document = {"architecture": "amd64", "os": "linux", **config, "history": history,
                "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    described = put(made, "application/vnd.oci.image.config.v1+json", json.dumps(document).encode())
    manifest = put(made, "application/vnd.oci.image.manifest.v1+json", json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described, "layers": descriptors}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (made / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (made / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    made.rename(folder)


def put(folder, kind, content):
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(content)}
