"""Who builds: quern, BuildKit of two releases of docker, buildah; each with its own store below the work folder."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "conformance"))
import bases  # noqa: E402
import buildkit  # noqa: E402
import timing  # noqa: E402


class Builder:
    """`command(tag, context)` builds; `daemons` are the processes that compute for it."""

    def __init__(self, name, command, environment=None, daemons=()):
        self.name, self.command = name, command
        self.environment = environment or dict(os.environ)
        self.daemons = list(daemons)


@contextlib.contextmanager
def started(work, names, quern, fresh, anew):
    """The builders of these names, ready, with the base image `benchbase`; they end with the context. `anew` says that
    daemons know nothing from earlier runs either; quern never does."""
    timing.apart(bases.prepare, work, Path("none"), {"debian"})
    layouts = work / "bases"
    with contextlib.ExitStack() as stack:
        place = work / f"daemons-{fresh}" if anew else work
        makers = {"quern": lambda: quern_builder(work, quern, layouts, fresh),
                  "docker20": lambda: docker_builder(stack, work, place / "docker20", layouts, Path("/")),
                  "docker26": lambda: docker_builder(stack, work, place / "docker26", layouts,
                                                     buildkit.fetch(work, bases.mirror(), "trixie")),
                  "docker28": lambda: docker_builder(stack, work, place / "docker28", layouts,
                                                     buildkit.fetch(work, bases.mirror(), "sid")),
                  "buildah": lambda: buildah_builder(work, layouts)}
        known = [makers[name]() for name in names]
        for builder in known:
            meet_base(builder, work / f"base-{fresh}")
        yield known


def meet_base(builder, folder):
    """Builds something small once, so that the base image is unpacked before anything is timed."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(f"FROM benchbase\nRUN true {folder.name}\n")
    timing.run([builder.command("base", folder)], builder.environment)


def quern_builder(work, quern, layouts, fresh):
    state = work / f"state-{fresh}"
    return Builder("quern", lambda tag, context: [
        quern, "--state", str(state), "build", "-t", tag, "--progress", "quiet",
        "--build-context", f"benchbase=oci-layout://{layouts / 'debian'}:latest", str(context)])


def docker_builder(stack, work, home, layouts, root):
    daemon = stack.enter_context(buildkit.Daemon(home, root, image_store=False))
    if not daemon.docker("images", "-q", "benchbase", stdout=subprocess.PIPE).stdout:
        archive = archived(work, layouts)
        daemon.docker("load", "-q", "-i", str(archive), check=True, stdout=subprocess.DEVNULL)
    environment = {**daemon.environment(), "DOCKER_BUILDKIT": "1"}
    return Builder(home.name, lambda tag, context: [*daemon.command(), "build", "-q", "--network=none", "-t", tag, str(context)],
                   environment, [daemon.process.pid])


def buildah_builder(work, layouts):
    home = work / "buildah"
    home.mkdir(exist_ok=True)
    base = ["buildah", "--root", f"{home}/root", "--runroot", f"{home}/run", "--storage-driver", "overlay"]
    environment = {**os.environ, "BUILDAH_RUNTIME": shutil.which("runc") or "crun"}
    listed = subprocess.run([*base, "images", "-q", "benchbase"], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL)
    if not listed.stdout:
        subprocess.run([*base, "pull", "-q", f"docker-archive:{archived(work, layouts)}"], env=environment, check=True,
                       stdout=subprocess.DEVNULL)
    return Builder("buildah", lambda tag, context: [*base, "bud", "--layers", "-q", "--network=none", "-t", tag, str(context)],
                   environment)


def archived(work, layouts):
    """The base image as an archive of `docker save`, the form that every docker and buildah reads."""
    archive = work / "benchbase.tar"
    if not archive.exists():
        subprocess.run(["skopeo", "copy", "-q", f"oci:{layouts / 'debian'}:latest",
                        f"docker-archive:{archive}:benchbase:latest"], check=True)
    return archive
