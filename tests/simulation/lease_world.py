"""A small pool for the lease protocol: machines, workers, conversations, a disk, and one head after another.

What decides is real: `worker.Lease` on one side, `contact.Contact`, `history.History` with the scheduler, and
the journal's format on the other. What is modelled is what carries it out, in the way of `worker.Worker`,
`head.Head` and `roster.Roster`. Nothing happens here by itself or by chance but what is due by time;
accidents, and what gets through when, are the business of whoever drives this (`test_lease_protocol`).

There is one real time, `World.now`, that nobody can read: every machine and every head has a monotonic clock
of its own. What must hold is asserted where it would be broken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pisa_fab.contact import Contact, Trouble
from pisa_fab.events import (
    Accept,
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostLost,
    HostReady,
    HostUnusable,
    JobsCancelled,
    JobsReopened,
    JobState,
    Outcome,
    RunClosed,
    RunOpened,
    Stop,
)
from pisa_fab.history import History
from pisa_fab.journal_format import decode, encode
from pisa_fab.messages import STOP_GRACE, lease_grace, margin_of
from pisa_fab.model import Policy
from pisa_fab.worker import LONGEST_WAIT, Lease

Message = dict[str, Any]
Id = tuple[int, int]  # job and attempt

LEASE = 12.0
POLICY = Policy(retries=1000, max_losses=1000, lease=LEASE, margin=margin_of(LEASE))
ALERT = 0.9  # seconds that a worker needs at the most to do what is due; the margin gives it 1
REACTION = LONGEST_WAIT + ALERT  # seconds that one which was frozen needs to look at its clock
JOBS = 5
SLOTS = 2
INSTANT = 1e-6  # seconds by which what is due is late at the least, because clocks are rounded
TURNS = 2000  # at one moment, after which something goes in circles

# These come once and in their order, as SSH gives it. All else may be lost, come again, or overtake.
KEPT = {"ready", "superseded", "closed", "run", "stop", "quit"}

GOOD = Outcome(Ending.EXITED, exit_code=0)
STOPPED = Outcome(Ending.STOPPED, signal=15)
REFUSED = Outcome(Ending.REFUSED)


class HeadDiedError(Exception):
    """The head was killed at this very point."""


@dataclass(eq=False)
class Machine:
    """A PC. `offset` is what its clock shows more than the real time, `id` is "" where it has none."""

    world: World
    id: str
    offset: float
    is_on: bool = True
    is_frozen: bool = False
    reacts_at: float = 0.0  # one that was frozen does nothing before, but its jobs run
    worker: Worker | None = None

    def clock(self) -> float:
        return self.world.now + self.offset

    @property
    def acts(self) -> bool:
        """Whether a process there gets to do something."""
        return self.is_on and not self.is_frozen and self.world.now >= self.reacts_at

    def power_off(self) -> None:
        if self.worker is not None:
            if self.worker.wire is not None:
                self.worker.wire.is_silent = True
            self.worker.vanish()
        for conversation in self.world.conversations:
            if conversation.machine is self and not conversation.is_heard:
                conversation.is_refused = True
        self.is_on = self.is_frozen = False

    def thaw(self) -> None:
        self.is_frozen = False
        self.reacts_at = self.world.now + REACTION
        self.world.check()


@dataclass(eq=False)
class Conversation:
    """One call, and what comes of it: what is on its way, and who still has an end of it."""

    head: Head
    host: str
    machine: Machine
    worker: Worker | None = None  # who has taken it
    up: list[Message] = field(default_factory=list)
    down: list[Message] = field(default_factory=list)
    is_silent: bool = False  # nothing gets through for the time being
    is_heard: bool = True  # the head has an end of it
    is_refused: bool = False

    @property
    def waits(self) -> bool:
        """Whether it has not arrived yet."""
        return self.worker is None and not self.is_refused

    @property
    def has_worker(self) -> bool:
        """Whether a worker has an end of it."""
        return self.worker is not None and self.worker.wire is self

    @staticmethod
    def may_pass(queue: list[Message], place: int) -> bool:
        """Whether this one may come before all that were said earlier."""
        op, earlier = queue[place]["op"], [message["op"] for message in queue[:place]]
        if op == "closed":
            return not earlier
        return "ready" not in earlier and not (op in KEPT and any(other in KEPT for other in earlier))


class Worker:
    """What `worker.Worker` does with lease, orders and results; jobs of odd numbers ignore SIGTERM."""

    def __init__(self, machine: Machine, wire: Conversation) -> None:
        self.machine = machine
        self.lease = Lease(machine.clock(), LEASE)
        self.epoch = wire.head.epoch
        self.first = wire
        self.wire: Conversation | None = wire
        self.is_set_up = False
        self.running: dict[Id, float | None] = {}  # when SIGKILL comes, None for never
        self.reported: dict[Id, Outcome] = {}
        self.is_leaving = False
        machine.worker = wire.worker = self

    # -- the conversation

    def take_up(self, wire: Conversation) -> None:
        self.drop()
        self.wire, self.epoch, self.is_set_up = wire, wire.head.epoch, False
        wire.worker = self

    def drop(self) -> None:
        """Leave the conversation; its relay cannot say whether this worker has ended."""
        if self.wire is not None:
            self.wire.up.append({"op": "closed", "ended": False})
        self.wire = None

    def detach(self) -> None:
        self.drop()
        if not (self.running or self.reported):
            self.leave(self.machine.clock() + STOP_GRACE)

    def set_up(self) -> None:
        now = self.machine.clock()
        if self.running or self.reported:
            self.lease.resize(now, LEASE)
        else:
            self.lease = Lease(now, LEASE)
        self.is_set_up = True
        holds = [*self.running, *self.reported]
        resumed = self.wire is not self.first
        self.say({"op": "ready", "machine": self.machine.id, "resumed": resumed, "holds": holds})
        for attempt in self.reported:
            self.say_ended(attempt)

    def say(self, message: Message) -> None:
        if self.wire is not None and self.is_set_up:
            self.wire.up.append(message)

    def say_ended(self, attempt: Id) -> None:
        self.say({"op": "ended", "id": attempt, "outcome": self.reported[attempt]})

    def handle(self, message: Message) -> None:
        op = message["op"]
        if op == "run":
            self.start(message["id"])
        elif op == "ack":
            for attempt in message["ids"]:
                self.reported.pop(attempt, None)
        elif op == "pong":
            self.lease.answered(message["at"])
        elif op == "stop":
            for attempt in [*self.running]:
                if message["ids"] is None or attempt in message["ids"]:
                    self.end(attempt, self.machine.clock() + STOP_GRACE)
        else:
            assert op == "quit"
            self.leave(self.machine.clock() + STOP_GRACE)

    # -- jobs

    def start(self, attempt: Id) -> None:
        if attempt in self.reported or attempt in self.running:
            return
        if self.is_leaving or self.lease.is_over(self.machine.clock()):
            self.report(attempt, REFUSED)
            return
        self.running[attempt] = None
        self.machine.world.began(attempt)

    def finish(self, attempt: Id, outcome: Outcome) -> None:
        if self.running.pop(attempt) is not None:
            outcome = STOPPED
        self.report(attempt, outcome)

    def report(self, attempt: Id, outcome: Outcome) -> None:
        self.reported[attempt] = outcome
        if outcome is GOOD:
            self.machine.world.succeeded[attempt] = self
        self.say_ended(attempt)

    def end(self, attempt: Id, kill_at: float) -> None:
        before = self.running[attempt]
        self.running[attempt] = kill_at if before is None else min(before, kill_at)
        if before is None and attempt[0] % 2 == 0:
            self.finish(attempt, STOPPED)

    def leave(self, kill_at: float) -> None:
        self.is_leaving = True
        for attempt in [*self.running]:
            self.end(attempt, kill_at)

    # -- what is due

    def due(self) -> list[float]:
        """Give the times, on its own clock, at which it has something to do."""
        times = [kill_at + ALERT for kill_at in self.running.values() if kill_at is not None]
        if self.is_leaving:
            return times
        return [*times, self.lease.ends_at + ALERT, *([self.lease.next_ping] if self.is_set_up else [])]

    def act(self) -> None:
        now = self.machine.clock()
        if not self.is_leaving and self.lease.is_over(now - ALERT):
            self.leave(self.lease.ends_at + lease_grace(LEASE))
        if self.is_set_up and not self.is_leaving and self.lease.ping_due(now):
            self.say({"op": "ping", "at": now})
            self.lease.pinged(now)
        for attempt, kill_at in [*self.running.items()]:
            if kill_at is not None and kill_at + ALERT <= now:
                self.finish(attempt, STOPPED)
        if self.is_leaving and not self.running:
            self.vanish(is_seen=True)

    def vanish(self, *, is_seen: bool = False) -> None:
        """End, and every job with it, be it in order or not."""
        if is_seen and self.wire is not None:
            self.wire.up.append({"op": "closed", "ended": True})
        self.wire = self.machine.worker = None
        self.running.clear()


class Head:
    """What `head.Head` and `roster.Roster` do with hosts, journal and orders."""

    def __init__(self, world: World, offset: float) -> None:
        self.world = world
        self.offset = offset
        self.history = world.replay()
        self.epoch = self.history.epochs + 1
        self.pending = bytearray()  # of the journal, not on the disk yet
        self.accepted: list[Accept] = []  # there
        self.cancelled: list[int] = []  # there
        self.outgoing: dict[str, list[Message]] = defaultdict(list)
        self.acks: dict[str, list[Id]] = defaultdict(list)
        self.contacts = {host: Contact(LEASE, call_at=self.clock()) for host in world.names}
        self.conversations: dict[str, Conversation] = {}
        self.record(RunOpened("1", "head", 1, tuple(range(JOBS)), POLICY, self.epoch))
        self.save()

    def clock(self) -> float:
        return self.world.now + self.offset

    def record(self, event: Event, now: float | None = None) -> None:
        moment = self.clock() if now is None else now
        self.write(event)
        for action in self.history.apply(self.world.now, event, moment):
            attempt = (action.job, action.attempt)
            if isinstance(action, Stop):
                self.outgoing[action.host].append({"op": "stop", "ids": [attempt]})
                continue
            self.acks[action.host].append(attempt)
            if isinstance(action, Accept) and action.publish:
                self.accepted.append(action)
        self.world.head_may_die("recorded")

    def write(self, event: Event) -> None:
        self.pending += encode(self.world.now, event).encode("ascii") + b"\n"

    # -- a turn

    def turn(self) -> None:
        self.look()
        for event in self.history.decide(self.world.now, self.clock()):
            self.write(event)
            if isinstance(event, AttemptStarted):
                order = {"op": "run", "id": (event.job, event.attempt)}
                self.outgoing[event.host].append(order)
            elif isinstance(event, JobsCancelled):
                self.cancelled += event.jobs
        self.world.head_may_die("decided")
        self.save()
        self.world.head_may_die("saved")
        self.deliver()

    def save(self) -> None:
        self.world.disk += self.pending
        self.pending.clear()
        for accept in self.accepted:
            self.world.settle(accept)
        self.accepted.clear()
        self.world.cancelled.update(self.cancelled)
        self.cancelled.clear()
        self.world.check()

    def deliver(self) -> None:
        for host, ids in self.acks.items():
            self.outgoing[host].append({"op": "ack", "ids": ids})
        self.acks.clear()
        for host in [*self.outgoing]:
            pieces = self.outgoing.pop(host)
            for attempt in [piece["id"] for piece in pieces if piece["op"] == "run"]:
                assert attempt not in self.world.ordered, f"{attempt} was given twice"
                self.world.ordered.add(attempt)
            if host in self.conversations:
                self.conversations[host].down += pieces
            self.world.head_may_die("delivering")

    def look(self) -> None:
        for host, contact in self.contacts.items():
            if contact.is_due(self.clock()):
                contact.called(self.clock())
                conversation = Conversation(self, host, self.world.names[host])
                self.conversations[host] = conversation
                self.world.conversations.append(conversation)
            elif contact.problem(self.clock()):
                self.close(self.conversations[host], trouble=Trouble.AWAY)

    def due(self) -> list[float]:
        """Give the times, on its own clock, at which it has something to do."""
        times = [contact.wake_at() for contact in self.contacts.values()]
        times.append(self.history.scheduler.wake_at())
        return [moment for moment in times if moment is not None]

    # -- what is heard

    def hear(self, conversation: Conversation, message: Message) -> None:
        contact, op = self.contacts[conversation.host], message["op"]
        contact.heard(self.clock())
        if op == "ended":
            self.record(AttemptEnded(*message["id"], conversation.host, message["outcome"]))
        elif op == "ping":
            contact.answered(self.clock())
            conversation.down.append({"op": "pong", "at": message["at"]})
        elif op == "ready":
            contact.came(self.clock())
            known = (message["machine"], message["resumed"], tuple(message["holds"]))
            self.record(HostReady(conversation.host, SLOTS, "", 0, *known))
        else:
            assert op == "closed", "no head but the last one speaks"
            self.close(conversation, ended=message["ended"])
        # On this machine no lease was begun or renewed by anything that was said later.
        answered = self.world.answered
        answered_at = contact.answered_at - self.offset
        answered[conversation.machine] = max(answered_at, answered.get(conversation.machine, 0.0))

    def close(
        self, conversation: Conversation, *, ended: bool = False, trouble: Trouble = Trouble.BROKEN
    ) -> None:
        host, contact = conversation.host, self.contacts[conversation.host]
        conversation.is_heard = False
        del self.conversations[host]
        was_ready, answered_at = contact.ready, contact.answered_at
        contact.closed(self.clock(), trouble, chance=0.5)
        if was_ready:
            self.record(HostLost(host, "gone", worker_ended=ended), answered_at)
        else:
            self.record(HostUnusable(host, "gone"))

    # -- the user

    def cancel(self, job: int) -> None:
        self.record(CancelAsked((job,), "me"))

    def reopen(self) -> None:
        jobs = tuple(self.history.scheduler.jobs_in(JobState.CANCELLED))
        if jobs:
            self.world.cancelled.clear()
            self.record(JobsReopened(jobs))
            self.save()

    def interrupt(self) -> None:
        """Two Ctrl-C, one after the other: tell everybody, wait for nobody."""
        for conversation in self.conversations.values():
            if self.contacts[conversation.host].ready:
                conversation.down += [{"op": "stop", "ids": None}, {"op": "quit"}]
        self.record(RunClosed("interrupted"))
        self.save()


class World:
    """Everything there is, and what must hold.

    Attributes:
        names: the machine that each host's name leads to.
        disk: the journal, as far as it has been brought there.
        settled: the attempt by which each job succeeded, according to the disk.
        cancelled: the jobs that are, according to the disk.
        doomed: the point at which the head dies, "" for none; how much of what it had not saved gets through.
    """

    def __init__(self, offsets: list[float], *, have_ids: bool) -> None:
        self.now = 1000.0
        ids = [f"machine {number}" if have_ids else "" for number in range(len(offsets))]
        self.machines = [Machine(self, id, offset) for id, offset in zip(ids, offsets, strict=True)]
        self.names = {"a": self.machines[0], "b": self.machines[1]}
        self.conversations: list[Conversation] = []
        self.disk = bytearray()
        self.head: Head | None = None
        self.doomed = ""
        self.doomed_cut = 0.0
        self.settled: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.ordered: set[Id] = set()
        self.begun: set[Id] = set()
        self.succeeded: dict[Id, Worker] = {}  # and who knows that
        self.answered: dict[Machine, float] = {}

    # -- heads come and go

    def replay(self) -> History:
        """Fold what is on the disk, without a torn tail, and look whether it keeps its word."""
        history, accepted = History(), dict[int, int]()
        del self.disk[self.disk.rfind(b"\n") + 1 :]
        for line in self.disk.decode("ascii").splitlines():
            found = decode(line)
            assert found is not None
            for action in history.apply(*found):
                if isinstance(action, Accept) and action.publish:
                    assert action.job not in accepted, f"{action} counts twice"
                    accepted[action.job] = action.attempt
        assert self.settled.items() <= accepted.items(), "a result that counted is lost"
        self.settled = accepted
        cancelled = set(history.scheduler.jobs_in(JobState.CANCELLED))
        assert self.cancelled <= cancelled, "what was cancelled is so no more"
        self.cancelled = cancelled
        return history

    def settle(self, accept: Accept) -> None:
        assert accept.job not in self.settled, f"{accept} counts, and so does {self.settled[accept.job]}"
        assert (accept.job, accept.attempt) in self.succeeded, f"{accept}, which never happened"
        assert accept.job not in self.cancelled, f"{accept} counts, and the job is cancelled"
        self.settled[accept.job] = accept.attempt

    def new_head(self, offset: float) -> None:
        self.kill_head(0.0)
        self.head = Head(self, offset)

    def head_may_die(self, point: str) -> None:
        if self.doomed == point:
            raise HeadDiedError

    def with_head(self, act: Callable[[Head], object]) -> None:
        """Let the head do something; it may die of it."""
        if self.head is not None:
            try:
                act(self.head)
            except HeadDiedError:
                self.kill_head(self.doomed_cut)

    def kill_head(self, cut: float) -> None:
        """Kill it; of what it has not saved, this part has come to the disk all the same."""
        if self.head is not None:
            self.disk += self.head.pending[: round(cut * len(self.head.pending))]
            for conversation in self.conversations:
                conversation.is_heard = False
        self.head, self.doomed = None, ""

    # -- messages

    def arrive(self, conversation: Conversation) -> bool:
        """Let a call come to its machine; False if nobody there takes it now."""
        machine = conversation.machine
        if not machine.acts or (machine.worker is not None and machine.worker.is_leaving):
            return False
        if machine.worker is None:
            Worker(machine, conversation)
        elif conversation.head.epoch >= machine.worker.epoch:
            machine.worker.take_up(conversation)
        else:
            conversation.is_refused = True
            conversation.up.append({"op": "superseded"})
        return True

    def pass_up(self, conversation: Conversation, place: int = 0, *, again: bool = False) -> None:
        message = conversation.up[place] if again else conversation.up.pop(place)
        if conversation.is_heard:
            self.with_head(partial(Head.hear, conversation=conversation, message=message))
            self.with_head(Head.turn)

    def pass_down(self, conversation: Conversation, place: int = 0, *, again: bool = False) -> None:
        message = conversation.down[place] if again else conversation.down.pop(place)
        if conversation.worker is not None and conversation.has_worker:
            conversation.worker.handle(message)
            self.check()

    def exchange(self) -> None:
        """Let everything get through that can, at once."""
        for _ in range(TURNS):
            moved = [self.move(conversation) for conversation in self.conversations]
            if not any(moved):
                break
        else:
            raise AssertionError("they never stop talking")

    def move(self, conversation: Conversation) -> bool:
        """Let one step of a conversation get through, if there is one."""
        machine, worker = conversation.machine, conversation.worker
        if conversation.is_silent:
            return False
        if conversation.waits and not machine.is_on and conversation.is_heard:
            self.with_head(partial(Head.close, conversation=conversation, trouble=Trouble.AWAY))
        elif conversation.waits and conversation.is_heard:
            return self.arrive(conversation)
        elif worker is not None and conversation.has_worker and machine.acts and not worker.is_set_up:
            worker.set_up()
        elif conversation.down and machine.acts:
            self.pass_down(conversation)
        elif conversation.up and conversation.is_heard:
            self.pass_up(conversation)
        elif worker is not None and conversation.has_worker and machine.acts and not conversation.is_heard:
            worker.detach()
        else:
            return False
        return True

    # -- time

    def pass_time(self, seconds: float, *, talking: bool) -> None:
        """Let everything happen that is due; `talking`, let what is said meanwhile get through at once."""
        until = self.now + seconds
        self.act(talking=talking)
        for _ in range(TURNS):
            self.now = min(until, max(self.now, self.next_moment()) + INSTANT)
            self.act(talking=talking)
            if self.now >= until:
                return
        raise AssertionError("time does not pass")

    def next_moment(self) -> float:
        moments = [self.now + LEASE]
        for machine in self.machines:
            if machine.acts and machine.worker is not None:
                moments += [moment - machine.offset for moment in machine.worker.due()]
            elif machine.reacts_at > self.now:
                moments.append(machine.reacts_at)
        if self.head is not None:
            moments += [moment - self.head.offset for moment in self.head.due()]
        return min(moments)

    def act(self, *, talking: bool) -> None:
        for machine in self.machines:
            if machine.acts and machine.worker is not None:
                machine.worker.act()
        self.with_head(Head.turn)
        if talking:
            self.exchange()
        self.conversations = [c for c in self.conversations if c.is_heard or c.has_worker or c.waits]
        self.check()

    # -- what must hold

    def began(self, attempt: Id) -> None:
        assert attempt not in self.begun, f"{attempt} was begun twice"
        assert attempt[0] not in self.settled, f"{attempt} was begun, although the job has succeeded"
        assert attempt[0] not in self.cancelled, f"{attempt} was begun, although the job is cancelled"
        for (job, _), worker in self.succeeded.items():
            knows = worker.machine.worker is worker and not worker.lease.is_over(worker.machine.clock())
            assert job != attempt[0] or not knows, f"{attempt} was begun, although a result is there"
        self.begun.add(attempt)
        self.check()

    def check(self) -> None:
        """Two attempts of a job never run at once, none of a cancelled one, no lease is longer than known.

        The one exception: an earlier attempt on a host that was frozen until its worker had to be gone. It
        has run on for no longer than that worker needs to look at its clock.
        """
        last: dict[int, int] = {}
        awake = [m.worker for m in self.machines if m.worker is not None and not m.is_frozen]
        for worker in awake:
            for job, attempt in worker.running:
                last[job] = max(last.get(job, 0), attempt)
        for worker in awake:
            machine = worker.machine
            excused = self.now <= machine.reacts_at and worker.lease.is_over(machine.clock())
            for job, attempt in worker.running:
                assert excused or attempt == last[job], f"{attempt} and {last[job]} of job {job} run at once"
                assert excused or job not in self.cancelled, f"{attempt} of a cancelled job runs"
            if worker.running:
                ends_at = worker.lease.ends_at - machine.offset
                assert ends_at <= self.answered[machine] + LEASE + INSTANT, "a lease that the head ignores"
