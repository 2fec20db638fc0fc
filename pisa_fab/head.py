"""The loop: what the links say goes into the journal and the scheduler, what that decides goes to the links.

The only place that reads the clock and catches signals. It decides nothing itself: the scheduler says which
job runs where and which result counts, and the head carries it out, when the event is safe on the disk.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Protocol

from pisa_fab.history import History
from pisa_fab.layout import stream_files
from pisa_fab.link import Closed, Inbox, Link, Message, Said, Wake
from pisa_fab.model import (
    AttemptEnded,
    AttemptStarted,
    Cluster,
    Discard,
    Ending,
    Event,
    Host,
    HostLost,
    HostReady,
    HostUnusable,
    Outcome,
    RunClosed,
    job_name,
)
from pisa_fab.run import Run
from pisa_fab.worker import clock

START_TIMEOUT = 60.0  # seconds from the start until a worker has said that it is ready
STOP_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
PARTING_PATIENCE = 3.0  # seconds that workers may take to leave when they have nothing left to do
PINGS_A_LEASE = 4
TURN = 0.003  # seconds between two turns of the loop, at least
LOOK_EVERY = 1.0  # seconds between two looks at the clock while nothing is said
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class View(Protocol):
    """What a person sees of a run (see `progress`)."""

    def happened(self, event: Event) -> None:
        """Show an event, if it is worth it."""

    def refresh(self, history: History, now: float) -> None:
        """Show where the run stands."""

    def say(self, text: str) -> None:
        """Show a line."""


class Links(Protocol):
    """What the head needs of a pool."""

    def links(self) -> dict[str, Link]:
        """Give the links by the names of their hosts."""

    def begin(self, inbox: Inbox) -> None:
        """Serve them all in the background."""

    def close(self) -> None:
        """Close them all."""


@dataclass(slots=True)
class Connection:
    """Where the conversation with a host stands. Times are those of `clock`."""

    host: Host
    link: Link
    heard_at: float
    ready: bool = False
    alive: bool = True
    reported: bool = False  # that it is unusable, before the link was closed


class Head:
    """One run: from the first connection to the last word of the journal."""

    def __init__(self, run: Run, cluster: Cluster, pool: Links, view: View) -> None:
        self.run = run
        self.batch = run.batch
        self.pool = pool
        self.lease = cluster.lease
        self.view = view
        self.inbox: Inbox = SimpleQueue()
        self.scheduler = run.history.scheduler
        self.began = clock()
        self.pinged_at = self.began
        self.turned_at = self.began
        links = pool.links()
        self.connections = {
            host.name: Connection(host, links[host.name], self.began) for host in cluster.hosts
        }
        self.outgoing: dict[str, list[Message]] = defaultdict(list)
        self.acks: dict[str, list[tuple[int, int, bool]]] = defaultdict(list)
        self.unpublished: dict[tuple[int, int], str] = {}
        self.interrupts = 0
        self.stop_at: float | None = None

    # -- the loop ---------------------------------------------------------------------------------------

    def work(self) -> str:
        """Run the batch and say how it ended: `finished`, `interrupted` or `no host`. Raises RunError."""
        for connection in self.connections.values():
            connection.link.send([self.setup(connection.host)])
        with self.catching_signals():
            self.pool.begin(self.inbox)
            try:
                while (reason := self.ended()) is None:
                    self.turn()
                self.part()
            finally:
                self.pool.close()
            self.record(RunClosed(reason))
            self.run.sync()
        return reason

    def turn(self) -> None:
        """Wait for news, then do everything that follows from it."""
        news = self.wait()
        for item in news:
            self.absorb(item)
        self.obey_interrupt()
        self.look_after_hosts()
        self.decide()
        self.run.sync()
        self.deliver()
        self.view.refresh(self.run.history, clock())

    def wait(self) -> list[Said | Closed | Wake]:
        """Wait until something is said or due; give all that has been said."""
        due = [LOOK_EVERY, self.pinged_at + self.lease / PINGS_A_LEASE - clock()]
        wake_at = self.scheduler.wake_at()
        if wake_at is not None:
            due.append(wake_at - clock())
        news = []
        try:
            news.append(self.inbox.get(timeout=max(0.0, min(due))))
            # Under load, one look at many messages costs far less than many looks at one.
            time.sleep(max(0.0, self.turned_at + TURN - clock()))
            self.turned_at = clock()
            while True:
                news.append(self.inbox.get_nowait())
        except Empty:
            return news

    def ended(self) -> str | None:
        """Say how the run has ended, None while it goes on."""
        if self.scheduler.finished:
            return "finished"
        if self.interrupts and (not self.scheduler.running or self.interrupts > 1 or self.is_late()):
            return "interrupted"
        if not any(connection.alive for connection in self.connections.values()):
            return "no host"
        return None

    def is_late(self) -> bool:
        """Say whether the workers have had their time to end what was running."""
        return self.stop_at is not None and clock() > self.stop_at

    def record(self, event: Event) -> None:
        """Journal an event, show it, and prepare what the worker has to be told of it."""
        for action in self.run.record(event, clock()):
            publish = not isinstance(action, Discard) and action.publish
            if publish:
                self.unpublished[(action.job, action.attempt)] = action.host
            self.acks[action.host].append((action.job, action.attempt, publish))
        self.view.happened(event)

    def deliver(self) -> None:
        """Send what this turn has prepared, one piece a host: first what gives it work."""
        for name, ids in self.acks.items():
            self.outgoing[name].append({"op": "ack", "ids": ids})
        self.acks.clear()
        for name, messages in self.outgoing.items():
            connection = self.connections.get(name)
            if connection is not None and connection.alive:
                connection.link.send(messages)
        self.outgoing.clear()

    # -- what was said ----------------------------------------------------------------------------------

    def absorb(self, item: Said | Closed | Wake) -> None:
        """Take in one piece of news."""
        if isinstance(item, Closed):
            self.close(self.connections[item.host], item)
        elif isinstance(item, Said):
            connection = self.connections[item.host]
            connection.heard_at = clock()
            for message in item.messages:
                self.hear(connection, message)

    def hear(self, connection: Connection, message: Message) -> None:
        """Take in one message of a worker."""
        name = connection.host.name
        op = message["op"]
        if op == "ended":
            outcome = outcome_of(message["outcome"])
            self.record(AttemptEnded(message["job"], message["attempt"], name, outcome))
        elif op == "published":
            for job, attempt in message["ids"]:
                self.unpublished.pop((job, attempt), None)
        elif op == "ready":
            connection.ready = True
            self.record(HostReady(name, connection.host.slots, message["python"], message["cores"]))
        elif op == "unusable":
            connection.reported = True
            self.record(HostUnusable(name, message["reason"]))
        elif op == "notice":
            self.view.say(f"{name}: {message['text']}")
        elif op not in ("pong", "bye"):
            raise ValueError(f"the worker on {name} said {op!r}, which this head does not know")

    def close(self, connection: Connection, closed: Closed) -> None:
        """Note that a link is over: a host lost, or one that never came to work."""
        connection.alive = False
        name = connection.host.name
        if connection.ready:
            self.publish_for(name)
            self.record(HostLost(name, closed.reason, worker_ended=closed.orderly))
        elif not connection.reported:
            self.record(HostUnusable(name, closed.reason))

    def publish_for(self, name: str) -> None:
        """Publish what a lost host was told to publish and did not confirm."""
        for (job, attempt), host in list(self.unpublished.items()):
            if host == name:
                self.run.publish(job, attempt)
                del self.unpublished[(job, attempt)]

    # -- what is due ------------------------------------------------------------------------------------

    def look_after_hosts(self) -> None:
        """Give signs of life, and give up hosts that give none."""
        now = clock()
        ping_due = now >= self.pinged_at + self.lease / PINGS_A_LEASE
        if ping_due:
            self.pinged_at = now
        for name, connection in self.connections.items():
            if not connection.alive:
                continue
            if connection.ready and now > connection.heard_at + self.lease:
                connection.link.abort(f"nothing heard for {self.lease:.0f} s")
            elif not connection.ready and now > self.began + START_TIMEOUT:
                connection.link.abort(f"no answer within {START_TIMEOUT:.0f} s; its home may hang")
            elif ping_due and connection.ready:
                self.outgoing[name].append({"op": "ping"})

    def decide(self) -> None:
        """Ask the scheduler what to do next, and prepare it."""
        for event in self.run.decide(clock()):
            self.view.happened(event)
            if isinstance(event, AttemptStarted):
                self.outgoing[event.host].append(self.order(event))

    def order(self, start: AttemptStarted) -> Message:
        """Give the message that starts an attempt."""
        job = self.batch.plan.job(self.run.numbering.index(start.job), start.job)
        name = job_name(start.job)
        own = {"PISA_JOB": name, "PISA_ATTEMPT": str(start.attempt)}
        return {
            "op": "run",
            "job": start.job,
            "attempt": start.attempt,
            "argv": job.argv,
            "env": own | dict(job.env),
            "timeout": self.batch.limits.timeout,
            "files": stream_files(f"{name}.{start.attempt}"),
            "published": stream_files(name),
        }

    def setup(self, host: Host) -> Message:
        """Give the first message to a worker."""
        limits = self.batch.limits
        return {
            "op": "setup",
            "workdir": str(self.batch.workdir),
            "venv": None if self.batch.venv is None else str(self.batch.venv),
            "nonce_file": str(self.run.layout.nonce),
            "nonce": self.run.nonce,
            "folders": self.run.layout.folders,
            "env": {"PISA_OUTPUT": str(self.batch.output), "PISA_HOST": host.name},
            "nice": limits.nice if host.nice is None else host.nice,
            "threads": limits.threads,
            "lease": self.lease,
            "grace": STOP_GRACE,
        }

    # -- stopping ---------------------------------------------------------------------------------------

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Turn the signals that end a program into an orderly stop; a second one ends it at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            self.inbox.put(Wake())

        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread, whose owner knows what to do with them
            return
        before = {number: signal.signal(number, note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def obey_interrupt(self) -> None:
        """Begin to stop when asked to: nothing new starts, what runs is ended, everything is kept."""
        if not self.interrupts or self.stop_at is not None:
            return
        self.stop_at = clock() + STOP_GRACE + PARTING_PATIENCE
        self.scheduler.drain()
        self.view.say("stopping: running jobs are ended, everything is kept; submit again to go on")
        for name, connection in self.connections.items():
            if connection.ready:
                self.outgoing[name].append({"op": "stop"})

    def part(self) -> None:
        """Send the workers home, wait a moment for them, and publish what they could not."""
        self.deliver()
        for connection in self.connections.values():
            connection.link.send([{"op": "quit"}])
        deadline = clock() + PARTING_PATIENCE
        while self.interrupts < 2 and any(c.alive and c.ready for c in self.connections.values()):
            try:
                item = self.inbox.get(timeout=max(0.0, deadline - clock()))
            except Empty:
                break
            if isinstance(item, Closed):
                self.connections[item.host].alive = False
            else:
                self.absorb(item)
        for job, attempt in self.unpublished:
            self.run.publish(job, attempt)


def outcome_of(data: dict[str, object]) -> Outcome:
    """Make the outcome of what the worker reported. Raises TypeError or ValueError if it is none."""
    return Outcome(**{**data, "ending": Ending(data["ending"])})  # type: ignore[arg-type]  # from JSON
