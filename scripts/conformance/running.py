"""Images that quern made, run by others: crun from the OCI layout, docker and skopeo from a registry it was pushed to."""

import contextlib
import io
import json
import os
import subprocess
import tarfile
import time
import urllib.error
import urllib.request

from image import Image
from servers import free_port

DOCKERFILE = """FROM busybox AS made
RUN echo made > /made && ln /made /hard && mkdir -p /w/gone && rm /bin/vi
FROM made
RUN rm -r /w && mkdir /w && chown app:staff /w && chmod 4755 /made
ENV SAID="by the image"
USER app
WORKDIR /w
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $SAID; cat /made; stat -c '%a %U:%G' /w /made; ls -A /w; id -u; ls /bin/vi 2> /dev/null | wc -l"]
"""
SAID = "by the image\nmade\n755 app:staff\n4755 root:root\n1000\n0\n"


def check(work, layouts, quern, docker):
    """Prints what ran; raises if something else was said."""
    context = work / "run"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    build = [quern, "--state", str(work / "state"), "build", "--build-context",
             f"busybox=oci-layout://{layouts / 'busybox'}:latest"]
    subprocess.run([*build, "-o", f"type=oci,dest={work / 'run.tar'}", str(context)], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    same(crun(work, Image(work / "run.tar")), "crun")
    with registry(work) as address:
        name = f"{address}/made:1"
        subprocess.run([*build, "-t", name, "--push", str(context)], check=True, stdout=subprocess.DEVNULL)
        copied = work / "copied"
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{copied}:made"],
                       check=True)
        if Image(copied).diff_ids != Image(work / "run.tar").diff_ids:
            raise RuntimeError("skopeo pulled other layers than were built")
        print("skopeo pulled what was built")
        run = ["run", "--rm", "--network=none", "--pull=always", "-q", name]
        same(docker.docker(*run, stdout=subprocess.PIPE, check=True, text=True).stdout, "docker")


def same(said, who):
    if said != SAID:
        raise RuntimeError(f"{who} said\n{said}")
    print(f"{who} ran it")


def crun(work, image):
    """Unpacks the image with tar and runs it as its config says."""
    bundle = work / "bundle"
    root = bundle / "rootfs"
    root.mkdir(parents=True)
    for layer in image.layers():
        lay(root, layer)
    subprocess.run(["crun", "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    config = image.config["config"]
    spec["process"] |= {"args": config["Entrypoint"] + config["Cmd"], "env": config["Env"], "cwd": config["WorkingDir"],
                        "terminal": False, "user": {"uid": 1000, "gid": 1000}}
    (bundle / "config.json").write_text(json.dumps(spec))
    # crun does not run beside control groups of both versions; it gets a namespace without the second.
    run = 'umount /sys/fs/cgroup/unified 2> /dev/null; exec crun --cgroup-manager=disabled run -b "$1" "$2"'
    command = ["unshare", "-m", "sh", "-c", run, "sh", str(bundle), f"quern-{os.getpid()}"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout


def lay(root, layer):
    """What a layer removes goes first, then GNU tar unpacks the rest."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        for name in archive.getnames():
            folder, _, last = name.rpartition("/")
            if last == ".wh..wh..opq":
                subprocess.run(["find", str(root / folder), "-mindepth", "1", "-delete"], check=True)
            elif last.startswith(".wh."):
                subprocess.run(["rm", "-rf", str(root / folder / last[4:])], check=True)
    subprocess.run(["tar", "-C", str(root), "--numeric-owner", "--exclude=.wh.*", "-xpf", "-"], input=layer, check=True)


@contextlib.contextmanager
def registry(work):
    """Debian's docker-registry on loopback."""
    port = free_port()
    settings = work / "registry.json"
    settings.write_text(json.dumps({"version": 0.1, "http": {"addr": f"127.0.0.1:{port}"},
                                    "storage": {"filesystem": {"rootdirectory": str(work / "registry")}}}))
    process = subprocess.Popen(["docker-registry", "serve", str(settings)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
