"""Whole processes timed from outside: wall, processor time with the daemon's, peak memory."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")


class Run:
    """`wall` and `cpu` in seconds; `memory` in MiB, if it was weighed: the sum of the clients' peaks and the daemon's peak."""

    def __init__(self, wall, cpu, memory):
        self.wall, self.cpu, self.memory = wall, cpu, memory


def run(commands, environment, daemons=(), weigh=False):
    """Starts all commands at once and waits for them. Weighing starts each from a small process of time(1), which costs a
    millisecond: what the kernel calls a child's peak is at least what its parent held, and this program is large."""
    scales = [tempfile.NamedTemporaryFile(prefix="peak-") for _ in commands] if weigh else []
    if weigh:
        commands = [["/usr/bin/time", "-f", "%M", "-o", scale.name, *command] for scale, command in zip(scales, commands)]
    forget_peaks(daemons)
    before = sum(map(daemon_time, daemons))
    start = time.monotonic()
    children = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE) for command in commands]
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
    memory = sum(float(scale.read()) for scale in scales) / 1024 + sum(map(peak, daemons)) if weigh else None
    return Run(wall, cpu, memory)


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
