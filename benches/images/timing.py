"""Whole processes timed from outside: wall, processor time with the daemon's, peak memory."""

import multiprocessing
import os
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")


class Run:
    """`wall` and `cpu` in seconds; `memory` in MiB: the sum of the clients' peaks and the daemon's peak."""

    def __init__(self, wall, cpu, memory):
        self.wall, self.cpu, self.memory = wall, cpu, memory


def run(commands, environment, daemons=()):
    """Starts all commands at once and waits for them."""
    forget_peaks(daemons)
    before = sum(map(daemon_time, daemons))
    start = time.monotonic()
    children = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE) for command in commands]
    cpu = memory = 0
    for child in children:
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if status:
            sys.exit(f"{' '.join(child.args)} failed:\n{error.decode('utf-8', 'replace')[-2000:]}")
        cpu += usage.ru_utime + usage.ru_stime
        memory += usage.ru_maxrss / 1024
    wall = time.monotonic() - start
    cpu += sum(map(daemon_time, daemons)) - before
    return Run(wall, cpu, memory + sum(map(peak, daemons)))


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
