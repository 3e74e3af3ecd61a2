"""Whole processes timed from outside: wall, processor time with the daemon's, peak memory."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")


class Run:
    """`wall` and `cpu` in seconds; `memory` in MiB, if it was weighed: the clients' peak together and the daemon's."""

    def __init__(self, wall, cpu, memory):
        self.wall, self.cpu, self.memory = wall, cpu, memory


def run(commands, environment, daemons=(), weigh=False):
    """Starts all commands at once and waits for them. One alone is weighed from a small process of time(1), which costs a
    millisecond: what the kernel calls a child's peak is at least what its parent held, and this program is large.
    Several share pages: what they and their children hold together is asked every 50 ms."""
    alone = weigh and len(commands) == 1
    if alone:
        scale = tempfile.NamedTemporaryFile(prefix="peak-")
        commands = [["/usr/bin/time", "-f", "%M", "-o", scale.name, *commands[0]]]
    forget_peaks(daemons)
    before = sum(map(daemon_time, daemons))
    start = time.monotonic()
    children = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE) for command in commands]
    together = Together([child.pid for child in children]) if weigh and not alone else None
    cpu = 0
    for child in children:
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if status:
            sys.exit(f"{' '.join(child.args)} failed:\n{error.decode('utf-8', 'replace')[-2000:]}")
        cpu += usage.ru_utime + usage.ru_stime
    wall = time.monotonic() - start
    cpu += sum(map(daemon_time, daemons)) - before
    if not weigh:
        return Run(wall, cpu, None)
    memory = float(scale.read()) / 1024 if alone else together.stop()
    return Run(wall, cpu, memory + sum(map(peak, daemons)))


class Together:
    """The most that processes and their children held together, shared pages counted once, in MiB."""

    def __init__(self, pids):
        self.pids, self.most, self.over = pids, 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while not self.over.wait(0.05):
            self.most = max(self.most, sum(map(held, self.pids)))

    def stop(self):
        self.over.set()
        self.thread.join()
        return self.most / 1024


def held(pid):
    """KiB of a process and its children, each page divided among those who share it; 0 once it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            own = next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
    except OSError:
        return 0
    return own + sum(held(int(child)) for child in children)


def apart(work, *arguments):
    """Calls `work` in a process of its own: a child's peak memory starts at what its parent held."""
    child = multiprocessing.Process(target=work, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)


def daemon_time(pid):
    """Seconds a daemon and the children it waited for have computed."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICK


def forget_peaks(daemons):
    for pid in daemons:
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")


def peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
