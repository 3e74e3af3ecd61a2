"""What ADD fetches from: a web server and a git server on loopback, each with fixed content and times."""

import contextlib
import functools
import http.server
import os
import socket
import subprocess
import threading
import time


@contextlib.contextmanager
def running(case, work):
    """Gives the build arguments HTTP and GIT of a case while its servers run."""
    with contextlib.ExitStack() as stack:
        words = []
        if case.about.get("http"):
            words += ["--build-arg", "HTTP=" + stack.enter_context(web(work / "context"))]
        if case.about.get("git"):
            words += ["--build-arg", "GIT=" + stack.enter_context(git(work / "git", case.about["git"]))]
        if case.about.get("ssh"):
            stack.enter_context(agent(work / "agent"))
        yield words


@contextlib.contextmanager
def agent(path):
    """Something that listens where an ssh agent would."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def web(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def git(folder, files):
    """A repository with main, a branch side and a tag v1; its commits have the same names everywhere."""
    repository = folder / "repo.git"
    repository.mkdir(parents=True)
    when = "1234567890 +0000"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1",
                   "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    for person in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{person}_NAME": "a", f"GIT_{person}_EMAIL": "a@example.org"}

    def run(*words):
        subprocess.run(["git", "-C", str(repository), *words], env=environment, check=True, stdout=subprocess.DEVNULL)

    run("init", "-q", "-b", "main")
    for path, content in files.items():
        file = repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755 if content.startswith("#!") else 0o644)
    run("add", ".")
    run("commit", "-q", "-m", "first")
    run("tag", "v1")
    run("checkout", "-q", "-b", "side")
    (repository / next(path for path in files if "/" in path)).write_text("side\n")
    run("commit", "-q", "-a", "-m", "second")
    run("checkout", "-q", "main")
    port = free_port()
    daemon = subprocess.Popen(["git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}",
                               f"--base-path={folder}", str(folder)], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"git://127.0.0.1:{port}/repo.git"
    finally:
        daemon.terminate()
        daemon.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("the git server does not answer")
