"""Faults at random, for the soak: what may happen to a pool and its heads, one thing after the other.

Everything follows from one random number generator, except how long the machine takes. What is done goes into
a `Timeline` for the judge, and a line each into a log for people. At least one host is left alone at any
time, and a head is left alone, too, while another fault of heads lasts.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from heads import Heads
from namespaces import NamespacePool
from pcs import Host
from processes import Process
from soak_job import clock
from verdict import Timeline

PAUSE = (0.3, 2.0)  # seconds between two faults
SHORT = (0.1, 0.7)  # leases that a fault lasts; a head needs a part of the lease to notice
LONG = (1.2, 2.5)
WORKER = b"pisa_fab: jobs for"  # in the titles of worker, guardian and relay
FEWEST_HEALTHY = 1
HEAD_SHARE = 0.17  # of all faults
YOUNG_HEAD_SHARE = 0.3  # of those; a head that has not met a host yet is mostly left alone
SAME_PC_SHARE = 0.6  # of new heads: only there may one come within the lease (see lock.py)

Undo = Callable[[], None]


@dataclass(order=True)
class Pending:
    """A fault that lasts."""

    until: float
    victim: str = field(compare=False)
    undo: Undo = field(compare=False)


class Chaos:
    """Does one thing after the other to a pool: call `step` often, and `heal` at the end."""

    def __init__(
        self,
        pool: NamespacePool,
        heads: Heads,
        write_cluster: Callable[[list[str]], None],
        dice: random.Random,
        lease: float,
        log: Path,
    ) -> None:
        self.pool = pool
        self.heads = heads
        self.write_cluster = write_cluster
        self.dice = dice
        self.lease = lease
        self.log = log
        self.timeline: Timeline = heads.timeline
        self.counts: Counter[str] = Counter()
        self.pending: list[Pending] = []
        self.left_out: list[str] = []  # hosts that are not in the cluster file
        self.next_at = clock()
        self.host_faults = (
            self.cut,
            self.power_off,
            self.crash,
            self.freeze,
            self.freeze,
            self.stop_sshd,
            self.drop_sessions,
            self.kill_one,
            self.kill_one,
            self.leave_out,
        )
        self.head_faults = (
            self.kill_head,
            self.kill_head,
            self.kill_head,
            self.freeze_head,
            self.cut_head,
            self.power_off_head,
            self.hang_up,
            self.second_head,
        )

    # -- the loop -------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do what is due: end a fault, begin another."""
        now = clock()
        for pending in sorted(pending for pending in self.pending if pending.until <= now):
            self.end(pending)
        if now >= self.next_at:
            self.begin()
            self.next_at = clock() + self.dice.uniform(*PAUSE)

    def begin(self) -> None:
        """Let one thing happen, if anything may."""
        disturbed = {pending.victim for pending in self.pending}
        if self.dice.random() < HEAD_SHARE:
            if "head" not in disturbed and self.heads.running:
                self.disturb_head()
            return
        healthy = [host for host in self.pool.hosts if host.name not in disturbed]
        if len(healthy) > FEWEST_HEALTHY:
            self.dice.choice(self.host_faults)(self.dice.choice(healthy))

    def disturb_head(self) -> None:
        """Let something happen to the head."""
        if self.heads.at_work:
            self.dice.choice(self.head_faults)()
        elif self.dice.random() < YOUNG_HEAD_SHARE:
            self.kill_head()  # cut off, it would find no host and give up, which is no mistake

    def heal(self) -> None:
        """End every fault that lasts."""
        for pending in sorted(self.pending):
            self.end(pending)

    def end(self, pending: Pending) -> None:
        """End a fault."""
        self.pending.remove(pending)
        pending.undo()

    def lasts(self, victim: str, undo: Undo, *spans: tuple[float, float]) -> None:
        """Note a fault that lasts for some leases, one of the given spans."""
        seconds = self.lease * self.dice.uniform(*self.dice.choice(spans))
        self.pending.append(Pending(clock() + seconds, victim, undo))

    def note(self, kind: str, what: str) -> None:
        """Count a fault and write it down."""
        self.counts[kind] += 1
        self.write(f"{kind}: {what}")

    def write(self, text: str) -> None:
        """Put a line into the log: the jobs' clock, the time of day as in the journal, the text."""
        with self.log.open("a") as file:
            file.write(f"{clock():.3f} {time.time():.3f} {text}\n")

    # -- hosts ----------------------------------------------------------------------------------------------

    def cut(self, host: Host) -> None:
        """Pull the cable."""
        self.note("cut", host.name)
        host.cut()
        began = clock()

        def heal() -> None:
            self.timeline.unreachable[host.name].append((began, clock()))
            host.heal()
            self.write(f"healed: {host.name}")

        self.lasts(host.name, heal, SHORT, LONG)

    def power_off(self, host: Host) -> None:
        """Take the power away."""
        self.note("power off", host.name)
        host.power_off()
        self.lasts(host.name, self.booting(host), SHORT, LONG)

    def crash(self, host: Host) -> None:
        """End all processes, and reset what is open."""
        self.note("crash", host.name)
        host.crash()
        self.lasts(host.name, self.booting(host), SHORT, LONG)

    def booting(self, host: Host) -> Undo:
        """Give what boots a host."""

        def boot() -> None:
            host.boot()
            self.write(f"booted: {host.name}")

        return boot

    def freeze(self, host: Host) -> None:
        """Stop all processes."""
        self.note("freeze", host.name)
        host.freeze()
        began = clock()

        def thaw() -> None:
            self.timeline.frozen[host.name].append((began, clock()))
            host.thaw()
            self.write(f"thawed: {host.name}")

        self.lasts(host.name, thaw, SHORT, LONG)

    def stop_sshd(self, host: Host) -> None:
        """Restart sshd; what is open goes on."""
        self.note("sshd restart", host.name)
        host.stop_sshd()
        self.lasts(host.name, host.start_sshd, SHORT)

    def drop_sessions(self, host: Host) -> None:
        """Restart sshd; what is open ends."""
        self.note("sshd restart with sessions", host.name)
        host.stop_sshd(sessions=True)
        began = clock()

        def start() -> None:
            self.timeline.unreachable[host.name].append((began, clock()))
            host.start_sshd()
            self.write(f"sshd is back: {host.name}")

        self.lasts(host.name, start, SHORT, LONG)

    def kill_one(self, host: Host) -> None:
        """Kill a worker, its guardian or a relay; never a second one that has to clean up after the first."""
        ours = [process for process in host.started_there() if is_worker(process)]
        pids = {process.pid for process in ours}
        parents = {process.parent for process in ours}
        intact = [p for p in ours if p.parent in pids or p.pid in parents]
        relays = [p for p in ours if p.parent not in pids and p.pid not in parents and intact]
        victims = intact + relays
        if not victims:
            return
        victim = self.dice.choice(sorted(victims, key=lambda process: process.pid))
        kind = "worker" if victim.parent in pids else "guardian" if victim.pid in parents else "relay"
        self.note(f"kill -9 {kind}", f"{host.name}: {victim.describe()}")
        victim.send(signal.SIGKILL)

    def leave_out(self, host: Host) -> None:
        """Take a host out of the cluster file for a while; hang up, sometimes, to have that read at once."""
        self.note("left out", host.name)
        self.left_out.append(host.name)
        self.write_hosts()

        def put_back() -> None:
            self.left_out.remove(host.name)
            self.write_hosts()
            self.write(f"in the cluster file again: {host.name}")

        self.lasts(host.name, put_back, SHORT, LONG)

    def write_hosts(self) -> None:
        """Write the cluster file anew."""
        self.write_cluster([name for name in self.pool.names if name not in self.left_out])
        if self.dice.random() < 0.5:
            self.heads.hang_up()

    # -- heads ----------------------------------------------------------------------------------------------

    def kill_head(self) -> None:
        """Kill the head; submit again after a while, on this PC or the other."""
        self.note("kill -9 head", self.heads.where)
        self.heads.kill()
        self.submit_again()

    def submit_again(self) -> None:
        """Submit again after a while, on the same PC or another."""
        same = self.dice.random() < SAME_PC_SHARE
        name = self.heads.pc.name if same else self.dice.choice(self.pool.heads).name

        def submit() -> None:
            self.heads.start(name)
            self.write(f"submitted again on {name}")

        self.lasts("head", submit, SHORT, LONG)

    def freeze_head(self) -> None:
        """Stop the head, as closing a laptop does."""
        self.note("freeze head", self.heads.where)
        wake = self.heads.freeze()

        def thaw() -> None:
            wake()
            self.write("the head goes on")

        self.lasts("head", thaw, SHORT, LONG)

    def cut_head(self) -> None:
        """Pull the cable of the head's PC."""
        self.note("cut head", self.heads.where)
        pc = self.heads.pc
        pc.cut()
        began = clock()

        def heal() -> None:
            self.timeline.headless.append((began, clock()))
            pc.heal()
            self.write(f"healed: {pc.name}")

        self.lasts("head", heal, SHORT, LONG)

    def power_off_head(self) -> None:
        """Take the power of the head's PC away; submit again on the other, or here after the boot."""
        self.note("power off head", self.heads.where)
        pc = self.heads.pc
        pc.power_off()
        self.heads.gone()
        pc.boot()
        self.submit_again()

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self.note("SIGHUP", self.heads.where)
        self.heads.hang_up()

    def second_head(self) -> None:
        """Submit while another head is at work; it is refused, or there is nothing left to run."""
        name = self.dice.choice(self.pool.heads).name
        self.note("second submit", name)
        self.lasts("head", self.heads.start_second(name), SHORT)


def is_worker(process: Process) -> bool:
    """Whether a process is a worker, a guardian or a relay."""
    return WORKER.decode() in process.describe()


@contextmanager
def healed(chaos: Chaos) -> Iterator[Chaos]:
    """Heal everything, whatever becomes of what is done meanwhile."""
    try:
        yield chaos
    finally:
        chaos.heal()
