"""Whether somebody else needs this PC: the worker looks about once a second, and its jobs stand back.

It travels to the host with the worker: standard library only, Python 3.8 or newer. `desk` says who is there;
here it is weighed, together with what other people's programs use of the processors and the memory. What is
done with the jobs is the worker's business.

The policy is that of HTCondor for desktops. Jobs begin when nobody has been active for `idle` seconds. They
stand still at once when somebody is, or when others use more than `load` cores, and go on after `quiet`
seconds without either.
"""

from __future__ import annotations

import os
import time

from pisa_fab.desk import Desk, read

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Any

LONGEST_STEP = 10.0  # seconds between two looks; where it was longer the machine slept, or we stood still
WINDOW = 3.0  # seconds over which the load of others is averaged
ENOUGH = 1.8  # seconds of it before it says anything: a program that starts is not yet load
LISTING = 0.5  # seconds that may lie between making a list of our processes and the look
EASE = 0.6  # of the limit: below that a load that was too high is over
CLOSE = 0.4  # of the limit: from there on the kernel's own threads are told from programs
CLOSE_PATIENCE = 10.0  # seconds for which that goes on
PRESSED = 25.0  # percent of the time in which somebody waits for a processor
RELIEF = 1.1  # of the least free memory: so much has to be free again where there was too little
PRESSED_SHARE = 0.5  # of the limit: so much have others to use for that to be their waiting
SHORT = 10.0  # percent of the time in which everything waits for memory
KERNEL_THREADS = 2  # the process that is the parent of all threads of the kernel
MEBIBYTE = 1 << 20
STAT_BYTES = 1024  # more than a process's line of numbers is long
NEVER = float("-inf")


class Presence:
    """Whether somebody else needs this PC, as of the last look.

    Attributes:
        busy: why somebody needs it, in a few words for people; "" if nobody does.
        free_in: seconds until it is free if nothing more happens, None if it is free or nobody knows.
        full: why nothing new may be started although nobody needs the PC; "" if it may.
    """

    def __init__(self, rules: dict[str, Any], root: str = "/", uid: int | None = None) -> None:
        """Begin to look.

        Args:
            rules: policy ("pause", "requeue" or "ignore"), idle and quiet (seconds), load (cores),
                min_free_memory (bytes).
            root: the folder below which dev, proc, run and sys are.
            uid: whose jobs these are; whoever runs this, if None.
        """
        self.busy = ""
        self.free_in: float | None = None
        self.full = ""
        self.root = root
        self.floor = int(rules["min_free_memory"])
        self.ignores = rules["policy"] == "ignore"
        self.courtesy = Courtesy(rules["idle"], rules["quiet"], rules["load"])
        self.desk = Desk(root, os.getuid() if uid is None else uid)
        self.processors = Processors(root, rules["load"])
        self.looked_at: float | None = None
        self.awake = 0.0

    def adjust(self, rules: dict[str, Any]) -> None:
        """Go on with other rules; what has been seen is kept."""
        self.floor = int(rules["min_free_memory"])
        self.ignores = rules["policy"] == "ignore"
        self.courtesy.adjust(self.awake, rules["idle"], rules["quiet"], rules["load"])
        self.processors.limit = rules["load"]
        if self.ignores:
            self.busy, self.free_in = "", None

    def look(self, now: float, ours: list[int]) -> None:
        """Look around, and set what is said of this PC. Takes no longer than a few milliseconds.

        Args:
            now: on the worker's clock.
            ours: all processes of the worker: itself, its guardian, the jobs and what they have started.
        """
        self.full = self.shortage()
        if self.ignores:
            return
        step = 0.0 if self.looked_at is None else max(0.0, now - self.looked_at)
        self.looked_at = now
        woken = step > LONGEST_STEP
        self.awake += min(step, LONGEST_STEP)  # time asleep is not time in which it was quiet
        others = self.processors.look(now, ours, woken)
        age = self.desk.look(now, time.time(), woken)
        self.courtesy.look(self.awake, age, self.desk.who, others, self.pressure("cpu", "some"))
        self.busy, self.free_in = self.courtesy.busy, self.courtesy.free_in

    def pressure(self, resource: str, share: str) -> float:
        """Give the percentage of the last 10 s in which some or all processes waited for a resource."""
        for line in read(os.path.join(self.root, "proc/pressure", resource)).splitlines():
            kind, _, rest = line.partition(" avg10=")
            if kind == share:
                try:
                    return float(rest.split()[0])
                except (ValueError, IndexError):
                    return 0.0
        return 0.0

    def shortage(self) -> str:
        """Say what there is too little of for another job, "" if there is enough."""
        waiting = self.pressure("memory", "full")
        if waiting > SHORT:
            return f"memory is short: everything waits for it {waiting:.0f} % of the time"
        if self.floor:
            for line in read(os.path.join(self.root, "proc/meminfo")).splitlines():
                name, _, amount = line.partition(":")
                fields = amount.split()
                if name == "MemAvailable" and fields and fields[0].isdigit():
                    free = int(fields[0]) * 1024
                    if free < self.floor * (RELIEF if self.full else 1.0):
                        least = self.floor // MEBIBYTE
                        return f"only {free // MEBIBYTE} MB of memory are free (at least {least} MB)"
        return ""


class Courtesy:
    """When to stand back and when to go on. Pure: time and what was seen are arguments.

    Attributes:
        busy, free_in: as in `Presence`. The words do not change as long as their cause holds.
    """

    def __init__(self, idle: float, quiet: float, load: float) -> None:
        self.busy = ""
        self.free_in: float | None = None
        self.quiet = quiet
        self.load = load
        self.patience = idle  # how long after somebody was active it counts as free; later `quiet`
        self.has_begun = False  # it has been free once
        self.bar = 0.0  # the load that was too high when this became busy; 0 while it is not
        self.who = ""
        self.who_until = NEVER
        self.why = ""
        self.why_until = NEVER

    def look(self, now: float, age: float | None, who: str, others: float | None, pressed: float) -> None:
        """Take note of what was seen.

        Args:
            now: seconds in which the machine was awake.
            age: how long ago somebody was active, if that is news, else None.
            who: that somebody, in words.
            others: cores that others use, None if that is not known.
            pressed: percentage of the time in which some process waited for a processor.
        """
        if age is not None and now - age + self.patience >= self.who_until:
            self.who_until = now - age + self.patience
            self.who = self.who if self.busy and self.busy == self.who else who
        loaded = self.weigh(others, pressed)
        if loaded:
            self.why_until = now + self.quiet
            self.why = self.why if self.busy and self.busy == self.why else loaded
        held = []
        if self.who_until > now or age == 0:  # also where there is no time to wait: who is here is here
            held.append(self.who)
        if self.why_until > now or loaded:
            held.append(self.why)
        if held:
            self.busy = self.busy if self.busy in held else held[0]
            self.free_in = None if loaded else max(0.0, max(self.who_until, self.why_until) - now)
        else:
            self.busy, self.free_in = "", None
            self.patience = self.quiet
            self.has_begun = True
            self.bar = 0.0

    def adjust(self, now: float, idle: float, quiet: float, load: float) -> None:
        """Go on with other times and another limit; nothing that was seen is forgotten or lasts longer."""
        self.quiet, self.load = quiet, load
        self.patience = quiet if self.has_begun else idle
        self.bar = min(self.bar, load)
        self.who_until = min(self.who_until, now + self.patience)
        self.why_until = min(self.why_until, now + quiet)

    def weigh(self, others: float | None, pressed: float) -> str:
        """Say that others use too much of the processors, "" if they do not or it is not known."""
        if others is None:
            return ""
        said = f"others use {others:.1f} cores"
        if others > self.load:
            self.bar = self.load
        elif pressed > PRESSED and others >= PRESSED_SHARE * self.load > 0:
            self.bar = self.bar or PRESSED_SHARE * self.load
            said += " and have to wait for them"
        elif not self.bar or others < EASE * self.bar:
            return ""
        return said


class Processors:
    """What others use of the processors, over the last seconds."""

    def __init__(self, root: str, limit: float) -> None:
        self.root = root
        self.limit = limit
        self.ticks = os.sysconf("SC_CLK_TCK")  # a second
        self.known: dict[int, Usage] = {}
        self.looked_at: float | None = None
        self.total: int | None = None
        self.window: list[tuple[float, float]] = []  # times, and what others had used until then
        self.close_until = NEVER  # until when the kernel's threads are counted apart

    def look(self, now: float, ours: list[int], woken: bool) -> float | None:
        """Give the cores that others use, None if that is not known yet.

        Programs that stand back themselves (nice above 0) are not counted, nor is what the kernel does by
        itself: much of that is for our own jobs' files.
        """
        total = self.in_use()
        before, self.total = self.total, total
        since, self.looked_at = self.looked_at, now
        was_close = now <= self.close_until
        everything = [*ours, *self.kernel_threads()] if was_close else ours
        had_kernel = KERNEL_THREADS in self.known
        known, self.known = self.known, usages(self.root, everything)
        if total is None or before is None or since is None or now <= since or woken:
            self.window = []
            return None
        used = (
            max(0.0, total - before - spent(known, self.known, (since - LISTING) * self.ticks)) / self.ticks
        )
        if used >= CLOSE * self.limit * (now - since):
            self.close_until = now + CLOSE_PATIENCE
            if not had_kernel and self.has_kernel():
                self.window = []  # whose it is will be seen from the next look on
                return None
        if not self.window:
            self.window = [(since, 0.0)]
        self.window.append((now, self.window[-1][1] + used))
        while len(self.window) > 2 and self.window[1][0] <= now - WINDOW:
            del self.window[0]
        began, sum_began = self.window[0]
        return (self.window[-1][1] - sum_began) / (now - began) if now - began >= ENOUGH else None

    def in_use(self) -> int | None:
        """Give the ticks that all processors have spent on programs that are not nice, None if unknown."""
        fields = read(os.path.join(self.root, "proc/stat"))[:200].split("\n", 1)[0].split()
        try:
            return int(fields[1]) + int(fields[3]) if fields[0] == "cpu" else None
        except (IndexError, ValueError):
            return None

    def has_kernel(self) -> bool:
        """Say whether the kernel's own threads can be seen; in a container they cannot."""
        return "(kthreadd)" in read(os.path.join(self.root, f"proc/{KERNEL_THREADS}/stat"))

    def kernel_threads(self) -> list[int]:
        """Give the kernel's own threads, with the one that starts them."""
        if not self.has_kernel():
            return []
        path = f"proc/{KERNEL_THREADS}/task/{KERNEL_THREADS}/children"
        pids = [int(pid) for pid in read(os.path.join(self.root, path)).split()]
        return [KERNEL_THREADS, *pids]


class Usage:
    """What a process has used, in ticks, itself and in children that it has waited for.

    Attributes:
        started: when, in ticks since boot.
        parent: its parent.
        nice: its user time is counted apart by the kernel.
        own, children: user and system time.
    """

    __slots__ = ("children", "nice", "own", "parent", "started")

    def __init__(self, fields: list[bytes]) -> None:
        self.parent = int(fields[1])
        self.own = (int(fields[11]), int(fields[12]))
        self.children = (int(fields[13]), int(fields[14]))
        self.nice = int(fields[16]) > 0
        self.started = int(fields[19])

    def counted(self, user: int, system: int) -> int:
        """Give what is in the columns that are looked at."""
        return system if self.nice else user + system


def usages(root: str, pids: list[int]) -> dict[int, Usage]:
    """Give what these processes have used; those that are gone are left out."""
    found = {}
    folder = os.path.join(root, "proc/")
    for pid in pids:
        try:
            file = os.open(f"{folder}{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found[pid] = Usage(os.read(file, STAT_BYTES).rpartition(b")")[2].split(None, 20))
        except (OSError, IndexError, ValueError):
            continue
        finally:
            os.close(file)
    return found


def spent(before: dict[int, Usage], after: dict[int, Usage], since: float) -> int:
    """Give the ticks that processes have used between two looks, in the columns that are looked at.

    A process that was waited for is part of its parent's children from then on, with all that it ever used:
    what was already known of it is taken off there.

    Args:
        before: what was seen at the first of them.
        after: what was seen at the second.
        since: when the first was, in ticks since boot.
    """
    total = 0
    children: dict[int, list[int]] = {}
    for pid, usage in after.items():
        old = before.get(pid)
        if old is not None and old.started == usage.started:
            own, waited = old.own, old.children
        elif usage.started >= since:
            own, waited = (0, 0), (0, 0)
        else:
            continue  # it ran before and was not known to be ours: what it has used is unknown
        total += usage.counted(usage.own[0] - own[0], usage.own[1] - own[1])
        children[pid] = [usage.children[0] - waited[0], usage.children[1] - waited[1]]
    for pid, old in before.items():
        if pid in after and after[pid].started == old.started:
            continue
        heir = old.parent
        while heir not in children and heir in before:
            heir = before[heir].parent
        if heir in children:
            children[heir][0] -= old.own[0] + old.children[0]
            children[heir][1] -= old.own[1] + old.children[1]
    for pid, (user, system) in children.items():
        total += after[pid].counted(max(0, user), max(0, system))
    return total
