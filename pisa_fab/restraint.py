"""What jobs are held to on a host: how far they stand back behind other programs, and their memory.

This file travels to the host with the worker: standard library only, Python 3.8 or newer. It decides nothing
about jobs. `stand_back` is for the worker's own process, from which every job inherits; `Confinement` holds
each job to its memory and says when that was too little. docs/limits.md has what the choices rest on.
"""

from __future__ import annotations

import errno
import os
import time

from pisa_fab.light import call_libc, find_program

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Iterable

CGROUPS = "/sys/fs/cgroup"

# -- standing back -------------------------------------------------------------------------------------------

IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # numbers of a system call that Python does not wrap
IOPRIO_WHO_PROCESS = 1
IOPRIO_IDLE = 3 << 13  # class "idle": served when nobody else has wanted the disk for a while
FIRST_VICTIM = 900  # of 1000; who is ended first when the whole machine has no memory left


def stand_back(nice: int) -> None:
    """Put this process, and all that it starts from now on, behind the programs of others.

    That is the disk only when nobody else wants it, the first place when the machine has run out of memory,
    and the nice value for the session as a whole: where sessions share the processor by "autogroup", those of
    single processes count within their session only. Linux takes such a write only ten times a second for all
    of a machine: where it did not, `stray_sessions` makes up for it. May be called again with another value.
    """
    if nice > 0:
        idle_on_disk()
        write_text("/proc/self/oom_score_adj", str(FIRST_VICTIM))
    if os.getsid(0) != os.getpid() or autogroup_nice(os.getpid()) in (None, nice):
        return  # a session that is not our own may be that of the person who started us
    set_autogroup(os.getpid(), nice)


def idle_on_disk() -> None:
    """Ask for the disk only when nobody else wants it. Does nothing where that call is not known."""
    call = IOPRIO_SET.get(os.uname().machine)
    if call is not None and os.uname().sysname == "Linux":
        call_libc("syscall", call, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)


def stray_sessions(pids: Iterable[int], nice: int) -> None:
    """Put back the sessions of these processes: also those that jobs have made for themselves.

    What cannot be done now, because Linux takes such a write only now and then, is left for the next time.
    """
    if nice <= 0:
        return
    session = os.getsid(0)
    others = {0} if session == os.getpid() else {0, session}  # that may be the session of a person
    for pid in {session_of(pid) for pid in pids} - others:
        if autogroup_nice(pid) not in (None, nice):
            set_autogroup(pid, nice)


def is_grouped() -> bool:
    """Say whether nice values count within the group of this process only, and not against other users.

    systemd makes such groups, one a user, as soon as one user's services may divide up the processor. Nobody
    but the administrator can say then that a user's jobs are worth less than somebody else's programs.
    """
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return False
    if any("cpu" in controllers.split(",") and path != "/" for _, controllers, path in lines):
        return True  # version 1
    path = next((path for _, controllers, path in lines if not controllers), "/")
    while path != "/":
        if os.path.exists(f"{CGROUPS}{path}/cpu.weight"):
            return True
        path = os.path.dirname(path)
    return False


def session_of(pid: int) -> int:
    """Give the session of a process, 0 if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def autogroup_nice(pid: int) -> int | None:
    """Give the nice value of the autogroup that a process is in, None where there is no such thing."""
    try:
        with open(f"/proc/{pid}/autogroup") as file:
            return int(file.read().split()[-1])
    except (OSError, ValueError, IndexError):
        return None


def set_autogroup(pid: int, nice: int) -> bool:
    """Give the autogroup of a process a nice value; False if this is worth trying again in a moment."""
    try:
        with open(f"/proc/{pid}/autogroup", "w") as file:
            file.write(str(nice))
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def write_text(path: str, text: str) -> bool:
    """Write into a file of the kernel; say whether it took that."""
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        return False
    return True


# -- memory --------------------------------------------------------------------------------------------------

BUSCTL_PATIENCE = 3.0  # seconds that the user's service manager may take
WORKER_GROUP = "worker"
JOB_GROUP = "job-"  # and the pid of its first process
RESERVE = 1 << 30  # bytes beside the limit, for what is asked for and never used
DATA_LINE = ("RssAnon:", "RssShmem:", "VmSwap:")  # of /proc/PID/status
SHARE_LINE = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")  # of /proc/PID/smaps_rollup
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
NUMPY_REFUSED = r"MemoryError: Unable to allocate ([0-9.]+) (\w+) for an array"
# How a program ends that was refused memory, and how many of such words say so only together with a peak
# that is near the limit: they may be about the memory of a graphics card, or a text that a program prints.
SURELY_REFUSED = r"^MemoryError$|^terminate called after throwing an instance of 'std::bad_alloc'"
MAYBE_REFUSED = (
    r"MemoryError|bad_alloc|[Oo]ut ?[Oo]f ?[Mm]emory|Cannot allocate memory|[Cc]annot allocate vector"
    r"|memory allocation of \d+ bytes failed|ENOMEM"
)
NEAR = 0.75  # of the limit


class Confinement:
    """Holds jobs to a limit of memory, in the best way that this host has.

    With a cgroup a job the kernel does it exactly, and ends the whole job. That takes a service manager of
    the user (systemd) that may divide up memory. Anywhere else a process cannot reserve much more than the
    limit (RLIMIT_DATA), and the worker asks `is_over` about once a second and ends the job itself.

    Attributes:
        limit: bytes that a job may use; of jobs that are confined from now on.
        groups: the cgroup of each confined job, by its first process; empty where there are none.
    """

    def __init__(self, limit: int, manager: bool = True, nice: int = 0) -> None:
        """See what there is. Takes some 50 ms with a service manager, at most BUSCTL_PATIENCE seconds."""
        self.limit = limit
        self.home = own_cgroup(nice) if manager else ""
        self.groups = groups_in(self.home)  # some, where this process has made a confinement before
        self.left: list[str] = []  # cgroups of jobs that have ended, in which something was still ending

    def confine(self, pid: int) -> None:
        """Hold a job to the limit: its first process, which has just been started, and all that it starts."""
        if self.home and self.enclose(pid):
            return
        import resource

        most = self.limit + RESERVE
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
            if hard == resource.RLIM_INFINITY or hard > most:
                resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
        except (OSError, ValueError):
            return  # it has ended, or has become somebody else; `is_over` looks at what there is

    def enclose(self, pid: int) -> bool:
        """Put a process into a cgroup of its own; False if that is not possible here."""
        group = os.path.join(self.home, f"{JOB_GROUP}{pid}")
        try:
            os.mkdir(group)
        except FileExistsError:
            pass  # of an earlier job with that pid, which has left something that did not end at once
        except OSError:
            return False
        done = (
            write_text(os.path.join(group, "memory.max"), str(self.limit))
            and write_text(os.path.join(group, "memory.oom.group"), "1")
            and write_text(os.path.join(group, "cgroup.procs"), str(pid))
        )
        if not done:
            removed(group)
            return False
        write_text(os.path.join(group, "memory.swap.max"), "0")  # not there on a kernel without swap
        self.groups[pid] = group
        return True

    def is_over(self, pids: list[int]) -> int:
        """Give the bytes that a job's processes use together if that is above the limit, else 0."""
        if not self.groups.keys().isdisjoint(pids):
            return 0  # the kernel watches
        if sum(most_used(pid) for pid in pids) <= self.limit:
            return 0
        used = sum(used_by(pid) for pid in pids)
        return used if used > self.limit else 0

    def ran_out(self, pid: int, peak: int, tail: str) -> bool:
        """Say whether the limit is why a job failed by itself; before `release`.

        `peak` is the most bytes that one of its processes had in memory, `tail` the end of its stderr.
        """
        group = self.groups.get(pid)
        if group is not None:
            return oom_kills(group) > 0
        return was_refused(self.limit, peak, tail)

    def release(self, pid: int) -> None:
        """Forget a job that has ended."""
        group = self.groups.pop(pid, None)
        if group is not None:
            self.left = [left for left in [*self.left, group] if not removed(left)]


def was_refused(limit: int, peak: int, tail: str) -> bool:
    """Say whether a program ended because it was refused memory at this limit; see `Confinement.ran_out`."""
    import re  # not at every start

    lines = tail.rstrip().splitlines()
    numpy = re.search(NUMPY_REFUSED, lines[-1]) if lines else None
    if numpy is not None and numpy[2] in UNITS:
        return peak + float(numpy[1]) * UNITS[numpy[2]] > limit
    if any(re.search(SURELY_REFUSED, line) for line in lines[-2:]):
        return True
    return peak >= NEAR * limit and any(re.search(MAYBE_REFUSED, line) for line in lines)


def most_used(pid: int) -> int:
    """Give the bytes that a process has at the most, cheaply: what it shares with others counts in full.

    Files that it maps are not counted, for their pages can be given up at any time.
    """
    return sum_of(f"/proc/{pid}/status", DATA_LINE)


def used_by(pid: int) -> int:
    """Give the bytes that a process has, what it shares with others in equal parts; takes milliseconds."""
    path = f"/proc/{pid}/smaps_rollup"
    if not os.access(path, os.R_OK):
        return most_used(pid)
    return sum_of(path, SHARE_LINE) or sum_of(path, ("Pss:", "SwapPss:"))  # the latter before Linux 5.4


def sum_of(path: str, names: tuple[str, ...]) -> int:
    """Add up some lines of a file of /proc, in kB there; 0 if the process has ended or is not ours."""
    try:
        with open(path) as file:
            fields = [line.split() for line in file if line.startswith(names)]
    except OSError:
        return 0
    return 1024 * sum(int(field[1]) for field in fields)


def oom_kills(group: str) -> int:
    """Give how many processes of a cgroup the kernel has ended because its memory was used up."""
    try:
        with open(os.path.join(group, "memory.events")) as file:
            counts = dict(line.split() for line in file)
    except OSError:
        return 0
    return int(counts.get("oom_kill", "0"))


def removed(group: str) -> bool:
    """Remove a cgroup; False while something is in it. What is never removed goes with the worker's scope."""
    try:
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def groups_in(home: str) -> dict[int, str]:
    """Give the cgroups of jobs, by the first process of each; none where there is no such folder."""
    names = os.listdir(home) if home else []
    pids = [int(name[len(JOB_GROUP) :]) for name in names if name.startswith(JOB_GROUP)]
    return {pid: os.path.join(home, f"{JOB_GROUP}{pid}") for pid in pids}


# -- a cgroup of our own -------------------------------------------------------------------------------------


def cgroup_of_self() -> str:
    """Give the folder of the cgroup that this process is in, "" where there are none of version 2 alone."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    if len(lines) != 1 or not lines[0].startswith("0::/"):
        return ""
    return os.path.join(CGROUPS, lines[0][len("0::/") :])


def has_memory(group: str) -> bool:
    """Say whether memory can be divided up among cgroups below this one."""
    try:
        with open(os.path.join(group, "cgroup.controllers")) as file:
            return "memory" in file.read().split()
    except OSError:
        return False


def own_cgroup(nice: int) -> str:
    """Have the user's service manager give this process a cgroup; give its folder, "" if it does not.

    With a `nice` above 0, that of its jobs, it comes after whatever else this manager has started.

    This process moves into a group below it, for Linux wants processes only in the outermost ones.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    if not cgroup_of_self() or not os.path.isdir(os.path.join(runtime, "systemd")):
        return ""
    unit = f"pisa-fab-{os.getpid()}.scope"
    home = os.path.dirname(cgroup_of_self())
    if os.path.basename(home) == unit:
        return home  # this process has been here before
    if not move_into(unit, runtime):
        return ""
    home = cgroup_of_self()
    if os.path.basename(home) != unit or not has_memory(home):
        return ""
    own = os.path.join(home, WORKER_GROUP)
    try:
        os.mkdir(own)
    except OSError:
        return ""
    done = write_text(os.path.join(own, "cgroup.procs"), str(os.getpid())) and write_text(
        os.path.join(home, "cgroup.subtree_control"), "+memory"
    )
    if nice > 0:  # not "idle", for the worker has to keep its lease
        write_text(os.path.join(home, "cpu.weight"), "1")
    return home if done else ""


def move_into(unit: str, runtime: str) -> bool:
    """Ask the user's service manager to put this process into a scope that this process may divide up.

    A job of systemd does it, so it may take a moment longer than the answer.
    """
    import subprocess

    busctl = find_program("busctl", os.environ.get("PATH", os.defpath))
    if busctl is None:
        return False
    deadline = time.monotonic() + BUSCTL_PATIENCE
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    properties = ["PIDs", "au", "1", str(os.getpid()), "Delegate", "b", "true", "CollectMode", "s"]
    properties += ["inactive-or-failed"]
    call = [busctl, "--user", "call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "3"]
    try:
        done = subprocess.run(
            [*call, *properties, "0"],
            env=dict(os.environ, XDG_RUNTIME_DIR=runtime),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=BUSCTL_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    while done.returncode == 0 and time.monotonic() < deadline:
        if os.path.basename(cgroup_of_self()) == unit:
            return True
        time.sleep(0.01)
    return False
