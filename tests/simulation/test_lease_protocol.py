"""The lease protocol, whatever happens: two clocks, a wilful network, and deaths at every step.

The world is in `lease_world`; here is what can go wrong in it. The network keeps the order of what relies on
SSH for that: `ready`, `run`, `stop`, `quit` and the end of a conversation. All the rest is treated worse than
SSH would: lost alone, repeated, overtaken, late by any time. At the end everything heals, and then every job
must come to its end.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lease_world import (
    GOOD,
    JOBS,
    KEPT,
    LEASE,
    STOPPED,
    Conversation,
    Head,
    Message,
    Worker,
    World,
)

from pisa_fab.contact import Trouble
from pisa_fab.events import Ending, JobState, Outcome
from pisa_fab.history import History

T = TypeVar("T")

BAD = Outcome(Ending.EXITED, exit_code=1)
HEALING = 4000.0  # seconds in which everything ends when nothing goes wrong any more

PICKS = st.integers(0, 5)  # which of several, counted round and round
MOMENTS = st.sampled_from([2.0, 0.1, LEASE / 2, LEASE, LEASE + 4.0, LEASE + 7.0])
OFFSETS = st.sampled_from([0.0, 500_000.0, -990.0])
SILENCES = st.sampled_from([LEASE / 8, LEASE / 2, LEASE, 0.0])
SOON = st.sampled_from([2.0, 0.0])
FATES = st.sampled_from(["comes", "comes", "lost", "repeated"])
POINTS = ["now", "recorded", "decided", "saved", "delivering", "interrupted"]
CUTS = st.sampled_from([0.0, 1.0, 0.5, 0.9])


def has_head(protocol: LeaseProtocol) -> bool:
    return protocol.world.head is not None


def some(things: list[T], pick: int) -> list[T]:
    """Give one of them, if there is one."""
    return [things[pick % len(things)]] if things else []


def choose(queue: list[Message], pick: int, fate: str) -> int | None:
    """Choose a message that may be the next to come, or may be lost or come again."""
    places = [place for place in range(len(queue)) if Conversation.may_pass(queue, place)]
    if fate != "comes":
        places = [place for place, message in enumerate(queue) if message["op"] not in KEPT]
    return next(iter(some(places, pick)), None)


class LeaseProtocol(RuleBasedStateMachine):
    """Everything that can happen to heads, workers, hosts and what they say to each other."""

    @initialize(offsets=st.tuples(OFFSETS, OFFSETS, OFFSETS), have_ids=st.booleans(), offset=OFFSETS)
    def begin(self, offsets: tuple[float, ...], have_ids: bool, offset: float) -> None:
        self.world = World([*offsets], have_ids=have_ids)
        self.world.new_head(offset)
        self.world.pass_time(1.0, talking=True)

    # -- time and work

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds, talking=True)

    @rule(seconds=MOMENTS)
    def nothing_is_heard_while_time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds, talking=False)

    @rule(pick=PICKS, outcome=st.sampled_from([GOOD, BAD, GOOD, STOPPED]), talking=st.booleans())
    def a_job_ends(self, pick: int, outcome: Outcome, talking: bool) -> None:
        workers = [worker for worker in self.workers() if not worker.machine.is_frozen]
        running = [(worker, attempt) for worker in workers for attempt in worker.running]
        if running:
            worker, attempt = running[pick % len(running)]
            worker.finish(attempt, outcome)
            self.world.pass_time(0.1, talking=talking)

    # -- the network

    @rule(pick=PICKS)
    def nothing_gets_through_for_a_while(self, pick: int) -> None:
        for conversation in some(self.world.conversations, pick):
            conversation.is_silent = not conversation.is_silent

    @rule(pick=PICKS, place=PICKS, fate=FATES)
    def a_worker_is_told_something(self, pick: int, place: int, fate: str) -> None:
        with_worker = [c for c in self.world.conversations if c.has_worker and c.machine.acts]
        for conversation in some(with_worker, pick):
            worker = conversation.worker
            assert worker is not None
            if not worker.is_set_up:
                worker.set_up()
            elif (found := choose(conversation.down, place, fate)) is None:
                worker.detach()  # there is nothing more, it is told
            elif fate == "lost":
                del conversation.down[found]
            else:
                self.world.pass_down(conversation, found, again=fate == "repeated")

    @precondition(has_head)
    @rule(pick=PICKS, place=PICKS, fate=FATES)
    def the_head_is_told_something(self, pick: int, place: int, fate: str) -> None:
        for conversation in some([c for c in self.world.conversations if c.is_heard and c.up], pick):
            found = choose(conversation.up, place, fate)
            if found is not None and fate == "lost":
                del conversation.up[found]
            elif found is not None:
                self.world.pass_up(conversation, found, again=fate == "repeated")

    @precondition(has_head)
    @rule(before=SILENCES, after=SILENCES)
    def workers_hear_late_what_the_head_answers(self, before: float, after: float) -> None:
        self.world.pass_time(before, talking=False)
        for conversation in self.world.conversations:
            while conversation.is_heard and conversation.up:
                self.world.pass_up(conversation)
        self.world.pass_time(after, talking=False)
        for conversation in self.world.conversations:
            while conversation.down and conversation.machine.acts:
                self.world.pass_down(conversation)
        self.world.act(talking=False)

    @rule(pick=PICKS)
    def a_call_arrives(self, pick: int) -> None:
        """Be it late, and the caller gone."""
        for conversation in some([c for c in self.world.conversations if c.waits], pick):
            self.world.arrive(conversation)

    @precondition(has_head)
    @rule(pick=PICKS, trouble=st.sampled_from(Trouble), seconds=SOON, moved=st.booleans())
    def the_head_sees_a_conversation_break(
        self, pick: int, trouble: Trouble, seconds: float, moved: bool
    ) -> None:
        """Perhaps because the name leads elsewhere now; a host without an id keeps its name."""
        names, machines = self.world.names, self.world.machines
        if moved and machines[0].id:
            names["a"] = machines[2] if names["a"] is machines[0] else machines[0]
        for conversation in some([c for c in self.world.conversations if c.is_heard], pick):
            self.world.with_head(partial(Head.close, conversation=conversation, trouble=trouble))
            self.world.pass_time(seconds, talking=True)

    # -- heads

    @precondition(has_head)
    @rule(point=st.sampled_from(POINTS), cut=CUTS)
    def the_head_dies(self, point: str, cut: float) -> None:
        """At once, or when it comes to this point."""
        if point == "interrupted":
            self.world.with_head(Head.interrupt)
        if point in ("now", "interrupted"):
            self.world.kill_head(cut)
        else:
            self.world.doomed, self.world.doomed_cut = point, cut

    @precondition(lambda self: not has_head(self))
    @rule(offset=OFFSETS, seconds=SOON, again=st.booleans())
    def another_head_takes_over(self, offset: float, seconds: float, again: bool) -> None:
        """Perhaps it is to run again what was cancelled."""
        self.world.new_head(offset)
        if again:
            self.world.with_head(Head.reopen)
        self.world.pass_time(seconds, talking=True)

    # -- the user

    @precondition(has_head)
    @rule(job=st.integers(0, JOBS - 1), seconds=SOON, talking=st.booleans())
    def somebody_cancels_a_job(self, job: int, seconds: float, talking: bool) -> None:
        self.world.with_head(partial(Head.cancel, job=job))
        self.world.pass_time(seconds, talking=talking)

    # -- hosts

    def workers(self) -> list[Worker]:
        return [machine.worker for machine in self.world.machines if machine.worker is not None]

    @rule(pick=PICKS, is_seen=st.booleans())
    def a_worker_is_killed(self, pick: int, is_seen: bool) -> None:
        for worker in some([worker for worker in self.workers() if worker.machine.acts], pick):
            worker.vanish(is_seen=is_seen)

    @rule(pick=PICKS)
    def a_power_switch_is_pressed(self, pick: int) -> None:
        for machine in some(self.world.machines, pick):
            if machine.is_on:
                machine.power_off()
            else:
                machine.is_on = True

    @rule(pick=PICKS, seconds=MOMENTS)
    def a_host_is_frozen_for_a_while(self, pick: int, seconds: float) -> None:
        for machine in some([machine for machine in self.world.machines if machine.acts], pick):
            machine.is_frozen = True
            self.world.pass_time(seconds, talking=True)
            if machine.is_frozen:
                machine.thaw()

    # -- what must hold

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.heal()
            self.everything_ends()

    def heal(self) -> None:
        for machine in self.world.machines:
            machine.is_on = True
            if machine.is_frozen:
                machine.thaw()
        if self.world.head is None:
            self.world.new_head(0.0)
        self.world.doomed = ""
        for conversation in self.world.conversations:
            conversation.is_silent = False
            if conversation.is_heard:  # for what has been lost without it
                conversation.up.append({"op": "closed", "ended": False})

    def everything_ends(self) -> None:
        head, until = self.world.head, self.world.now + HEALING
        assert head is not None
        while not head.history.scheduler.finished:
            assert self.world.now < until, f"no end: {head.history.scheduler.counts()}"
            self.world.pass_time(2.0, talking=True)
            for worker in self.workers():
                for attempt in [*worker.running]:
                    worker.finish(attempt, GOOD)
        self.world.pass_time(1.0, talking=True)
        scheduler = head.history.scheduler
        counts = scheduler.counts()
        assert counts[JobState.SUCCEEDED] == len(self.world.settled)
        assert counts[JobState.CANCELLED] == len(self.world.cancelled)
        assert counts[JobState.SUCCEEDED] + counts[JobState.CANCELLED] == JOBS
        at_work = self.world.names.values()
        assert all(not worker.reported for worker in self.workers() if worker.machine in at_work)
        replayed: History = self.world.replay()
        assert replayed.scheduler.snapshot() == scheduler.snapshot()


LeaseProtocol.TestCase.settings = settings(max_examples=500, stateful_step_count=40, deadline=None)
test_the_lease_protocol_keeps_the_promises = LeaseProtocol.TestCase
