"""A docker daemon of our own with the BuildKit in it: its data, its socket, its end."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

# The newest BuildKit that Debian packages; its programs run with the libraries of the last two releases.
SUITE = "sid"
PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "containerd")
SOURCES = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"
APT = """Dir "/";
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
APT::Sandbox::User "root";
"""


def fetch(folder, mirror, suite=SUITE):
    """Unpacks docker of another release below `folder`, installing nothing."""
    root = folder / f"docker-{suite}"
    if root.exists():
        return root
    apt = folder / f"apt-{suite}"
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(SOURCES.format(mirror=mirror, suite=suite))
    (apt / "apt.conf").write_text(APT.format(folder=apt))
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
    subprocess.run(["apt-get", "download", "-qq", *PACKAGES], env=environment, cwd=apt, check=True)
    made = root.with_name(root.name + ".made")
    shutil.rmtree(made, ignore_errors=True)
    for package in apt.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(made)], check=True)
    made.rename(root)
    return root


class Daemon:
    """`with Daemon(work, root) as docker:` runs dockerd of the unpacked packages in `root` meanwhile."""

    def __init__(self, work, root, image_store=True):
        self.home, self.root = work / "dockerd", root
        self.image_store = image_store

    def __enter__(self):
        programs, config = self.home / "bin", self.home / "config"
        shutil.rmtree(programs, ignore_errors=True)
        for folder in (programs, config / "cli-plugins"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/sbin/dockerd"):
            (programs / Path(name).name).symlink_to(self.root / name)
        plugin = config / "cli-plugins" / "docker-buildx"
        plugin.unlink(missing_ok=True)
        plugin.symlink_to(self.root / "usr/libexec/docker/cli-plugins/docker-buildx")
        store = "true" if self.image_store else "false"
        (self.home / "daemon.json").write_text('{"features": {"containerd-snapshotter": %s}}' % store)
        self.socket = f"unix://{self.home}/docker.sock"
        command = ["dockerd", "--config-file", f"{self.home}/daemon.json", "--data-root", f"{self.home}/data",
                   "--exec-root", f"{self.home}/exec", "-p", f"{self.home}/pid", "-H", self.socket,
                   "--iptables=false", "--ip6tables=false", "--bridge=none"]
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        log = open(self.home / "log", "ab")
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        start_new_session=True)
        self.wait()
        return self

    def wait(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"dockerd ended at once, see {self.home / 'log'}")
            if self.docker("version", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"dockerd does not answer, see {self.home / 'log'}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def command(self):
        return [str(self.root / "usr/bin/docker")]

    def environment(self, base=None):
        return {**(base or os.environ), "DOCKER_HOST": self.socket, "DOCKER_CONFIG": str(self.home / "config")}

    def docker(self, *words, **options):
        return subprocess.run([*self.command(), *words], env=self.environment(), **options)

    def version(self):
        found = self.docker("version", "--format", "{{.Server.Version}}", stdout=subprocess.PIPE, text=True)
        return found.stdout.strip().split("+")[0]

    def builder(self):
        """What comes before the arguments of a case. The daemon has no network, so steps get none."""
        return [*self.command(), "buildx", "build", "--progress=plain", "--provenance=false", "--sbom=false",
                "--no-cache", "--network=none"]


def failure(log, dockerfile):
    """The first line that BuildKit blames, and what it says."""
    said = re.findall(r"(?m)^ERROR: (.*)$", log)
    message = tidy(said[-1]) if said else log.strip().splitlines()[-1]
    marked = re.search(r"(?m)^\s*(\d+) \| >>> ", log)
    named = re.search(r"line (\d+)", message)
    line = int(named[1]) if named else int(marked[1]) if marked else None
    return {"line": line, "message": message}


def tidy(message):
    """Without what is new in every build."""
    message = re.sub(r"^(failed to build: )?(failed to solve: )?", "", message)
    message = re.sub(r"ref \S+::\S+: ", "", message)
    message = re.sub(r"/\S*?/(?:cachemounts|containerd-mount)/?[a-z]*\d+", "", message)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", message)
