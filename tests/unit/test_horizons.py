"""Which jobs are started before a host has fewer slots: those that are expected to have ended by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisa_fab.allowance import Horizon
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    Ending,
    HostLost,
    HostReady,
    JobRecord,
    JobsAdded,
    Outcome,
    RunOpened,
    SlotsChanged,
)
from pisa_fab.history import History
from pisa_fab.model import Batch, Cluster, Host, Policy
from pisa_fab.prospects import Prospects
from pisa_fab.queues import Queues
from pisa_fab.scheduler import LOOK_AHEAD, LOOK_AROUND, Scheduler

GOOD = Outcome(Ending.EXITED, exit_code=0)
STOPPED = Outcome(Ending.STOPPED, signal=15)
HOUR = 3600.0


def scheduler_of(
    seconds: Sequence[float | None] | Mapping[int, float | None],
    hosts: Mapping[str, tuple[int, Horizon]],
    policy: Policy | None = None,
) -> Scheduler:
    """Give a scheduler whose jobs are expected to take so long, with hosts of so many slots."""
    scheduler = Scheduler()
    scheduler.apply(RunOpened("1", "head", 1, tuple(range(len(seconds))), policy or Policy()))
    scheduler.expected = lambda job: seconds[job]
    for name, (slots, horizon) in hosts.items():
        scheduler.apply(HostReady(name, slots, machine=name))
        scheduler.set_horizon(name, horizon)
    return scheduler


def closes(at: float, slots: int = 0) -> Horizon:
    return Horizon(((at, slots),))


def started(scheduler: Scheduler, now: float) -> list[tuple[int, str]]:
    decisions = scheduler.decide(now)
    return [(start.job, start.host) for start in decisions if isinstance(start, AttemptStarted)]


# -- what fits -----------------------------------------------------------------------------------------


def test_a_job_is_started_where_it_is_expected_to_end_in_time() -> None:
    scheduler = scheduler_of([HOUR] * 3, {"a": (1, closes(HOUR)), "b": (1, closes(HOUR + 1))})
    assert started(scheduler, 0.0) == [(0, "a"), (1, "b")]
    scheduler.apply(AttemptEnded(0, 1, "a", GOOD), 1.0)
    scheduler.apply(AttemptEnded(1, 1, "b", GOOD), 1.0)
    assert started(scheduler, 1.0) == [(2, "b")]


def test_a_job_that_is_too_long_waits_and_shorter_ones_go_first() -> None:
    scheduler = scheduler_of([50, 900, 901, 30, 900, 20], {"a": (3, closes(100.0))})
    assert started(scheduler, 0.0) == [(0, "a"), (3, "a"), (5, "a")]
    scheduler.set_horizon("a", closes(2000.0))
    scheduler.apply(AttemptEnded(0, 1, "a", GOOD), 100.0)
    assert started(scheduler, 100.0) == [(1, "a")]


def test_a_job_goes_to_a_host_that_stays_open() -> None:
    scheduler = scheduler_of([900, 900, 50], {"a": (1, closes(100.0)), "b": (1, Horizon())})
    assert started(scheduler, 0.0) == [(0, "b"), (2, "a")]


def test_slots_that_remain_take_jobs_that_run_over_the_edge() -> None:
    scheduler = scheduler_of([900] * 4, {"a": (4, closes(100.0, slots=2))})
    assert started(scheduler, 0.0) == [(0, "a"), (1, "a")]
    assert started(scheduler, 50.0) == []


def test_a_job_that_will_have_ended_leaves_its_slot_to_one_that_runs_over_the_edge() -> None:
    scheduler = scheduler_of([90, 90, 900, 900], {"a": (4, closes(100.0, slots=1))})
    assert started(scheduler, 0.0) == [(0, "a"), (1, "a"), (2, "a")]


def test_every_one_of_several_edges_counts() -> None:
    horizon = Horizon(((100.0, 2), (200.0, 1), (300.0, 0)))
    scheduler = scheduler_of([301, 250, 250, 150, 150, 90], {"a": (6, horizon)})
    assert started(scheduler, 0.0) == [(1, "a"), (3, "a"), (5, "a")]


def test_when_a_host_has_no_fewer_slots_to_come_everything_is_started() -> None:
    scheduler = scheduler_of([900, 900], {"a": (2, closes(100.0))})
    assert started(scheduler, 0.0) == []
    scheduler.set_horizon("a", Horizon())
    assert started(scheduler, 0.0) == [(0, "a"), (1, "a")]


def test_a_host_that_is_lost_comes_back_with_its_horizon() -> None:
    scheduler = scheduler_of([900, 50], {"a": (2, closes(100.0))})
    scheduler.apply(HostLost("a", "gone", worker_ended=True))
    assert started(scheduler, 0.0) == []
    scheduler.apply(HostReady("a", 2, machine="a"))
    assert started(scheduler, 0.0) == [(1, "a")]


def test_a_job_that_was_stopped_frees_what_it_was_expected_to_take() -> None:
    scheduler = scheduler_of([900, 900], {"a": (2, closes(100.0, slots=1))})
    assert started(scheduler, 0.0) == [(0, "a")]
    scheduler.apply(AttemptEnded(0, 1, "a", STOPPED), 1.0)
    assert started(scheduler, 1.0) == [(0, "a")]
    scheduler.apply(AttemptEnded(0, 2, "a", GOOD), 2.0)
    assert started(scheduler, 2.0) == [(1, "a")]


# -- what is not known, or fits nowhere ----------------------------------------------------------------


def test_jobs_of_which_nothing_is_known_are_started() -> None:
    scheduler = scheduler_of([None, None], {"a": (2, closes(100.0))})
    assert started(scheduler, 99.0) == [(0, "a"), (1, "a")]


def test_a_job_of_which_nothing_is_known_is_taken_to_run_over_every_edge() -> None:
    scheduler = scheduler_of([None, 900, 90], {"a": (3, closes(100.0, slots=1))})
    assert started(scheduler, 0.0) == [(0, "a"), (2, "a")]


def test_what_was_expected_of_an_earlier_attempt_is_forgotten() -> None:
    seconds: dict[int, float | None] = {0: 50.0, 1: 900.0}
    scheduler = scheduler_of(seconds, {"a": (1, closes(100.0)), "b": (0, closes(100.0, slots=1))})
    assert started(scheduler, 0.0) == [(0, "a")]
    scheduler.apply(HostLost("a", "gone", worker_ended=True), 1.0)
    scheduler.apply(SlotsChanged("b", 2))
    seconds[0] = None
    assert started(scheduler, 1.0) == [(0, "b")]


def test_where_it_can_be_paused_a_job_longer_than_every_window_is_started() -> None:
    scheduler = scheduler_of([900, 1001], {"a": (2, Horizon(((100.0, 0),), longest=1000.0))})
    assert started(scheduler, 0.0) == [(1, "a")]


def test_a_host_without_a_slot_is_not_asked() -> None:
    scheduler = scheduler_of([50, 50], {"a": (0, Horizon()), "b": (1, closes(100.0))})
    assert started(scheduler, 0.0) == [(0, "b")]
    scheduler.apply(SlotsChanged("a", 1))
    assert started(scheduler, 60.0) == [(1, "a")]


# -- how far it looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [1, LOOK_AHEAD - 1, 5000, 9999])
def test_a_short_job_is_found_wherever_it_stands(place: int) -> None:
    seconds: list[float | None] = [900.0] * 10_000
    seconds[place] = 50.0
    scheduler = scheduler_of(seconds, {"a": (1, closes(100.0))})
    decided = 0
    while not (found := started(scheduler, 0.0)):
        decided += 1
        assert decided < 20 * len(seconds) / LOOK_AROUND
    assert found == [(place, "a")]


@pytest.mark.parametrize("falling", [False, True])
def test_a_sweep_in_order_fills_the_time_before_an_edge(falling: bool) -> None:
    seconds: list[float | None] = sorted((float(1 + job % 1000) for job in range(10_000)), reverse=falling)
    scheduler = scheduler_of(seconds, {"a": (8, closes(1000.0))})
    ends: dict[int, float] = {}
    used = now = 0.0
    while now < 990.0:
        for job, _ in started(scheduler, now):
            length = seconds[job]
            assert length is not None
            ends[job] = now + length
            assert ends[job] <= 1000.0
            used += length
        job = min(ends, key=lambda job: ends[job])
        now = ends.pop(job)
        scheduler.apply(AttemptEnded(job, 1, "a", GOOD), now)
    assert used >= 0.97 * 8 * 1000.0


def test_what_nobody_has_time_for_is_asked_about_no_more_often_than_that() -> None:
    asked: list[int] = []
    scheduler = scheduler_of([900.0] * 10_000, {"a": (1, closes(100.0))})

    def expected(job: int) -> float:
        asked.append(job)
        return 900.0

    scheduler.expected = expected
    assert started(scheduler, 0.0) == []
    assert len(asked) <= LOOK_AHEAD + LOOK_AROUND


def test_every_job_is_started_once_and_the_order_is_kept_where_there_is_time() -> None:
    scheduler = scheduler_of([10.0] * 50, {"a": (50, closes(100.0))})
    assert started(scheduler, 0.0) == [(job, "a") for job in range(50)]
    assert started(scheduler, 0.0) == []


@given(st.lists(st.sampled_from(["waiting", "done", "first", "last", "alone", "absent"]), max_size=60))
def test_from_all_over_the_batch_only_what_is_fresh_is_taken(what: list[str]) -> None:
    queues = Queues()
    queues.start([job for job, kind in enumerate(what) if kind != "absent"])
    state = bytearray(kind == "done" for kind in what)
    for job, kind in enumerate(what):
        if kind in ("first", "last", "alone"):
            getattr(queues, f"put_{kind}")(job, "")
    found = list(queues.scattered(state, 0, 100))
    assert {what[job] for job in found} <= {"waiting"}


@given(st.lists(st.booleans(), max_size=60))
def test_from_all_over_the_batch_everything_is_taken_in_time(waiting: list[bool]) -> None:
    queues = Queues()
    queues.start(range(len(waiting)))
    state = bytearray(not waits for waits in waiting)
    found = [job for _ in range(10) for job in queues.scattered(state, 0, 30)]
    assert set(found) == {job for job, waits in enumerate(waiting) if waits}


def test_what_was_learned_since_is_what_is_expected() -> None:
    history = History()
    records = [JobRecord(f"{size:016x}", ("job",), {"size": str(size)}) for size in range(1, 60)]
    history.apply(0.0, JobsAdded(0, records))
    here = Path("/")
    # The plan is asked for nothing but numbers, which are known here.
    batch = Batch(here, here, None, here, here, plan=None)  # type: ignore[arg-type]
    prospects = Prospects(history, batch, Cluster((Host("a"),)), UTC, 0.0)
    for number, record in enumerate(records):
        for job in (0, 30, 58):
            found = history.forecast.expect(records[job].arguments)
            assert prospects.at_most(job) == (found.at_most if found else None)
        history.forecast.learn(record.arguments, 10.0 * (number + 1))
    assert history.scheduler.expected(0) is not None


# -- last chances --------------------------------------------------------------------------------------


def test_a_last_chance_has_to_fit_as_well() -> None:
    policy = Policy(max_losses=2)
    scheduler = scheduler_of([50.0], {"a": (2, closes(100.0)), "b": (2, closes(100.0))}, policy)
    assert started(scheduler, 0.0) == [(0, "a")]
    scheduler.apply(HostLost("a", "gone", worker_ended=True))
    assert started(scheduler, 51.0) == []
    scheduler.set_horizon("b", closes(200.0))
    assert started(scheduler, 51.0) == [(0, "b")]


def test_a_last_chance_is_known_to_end_in_time() -> None:
    policy = Policy(max_losses=2)
    scheduler = scheduler_of([50.0, 900.0], {"a": (1, closes(100.0)), "b": (2, closes(100.0, 1))}, policy)
    assert started(scheduler, 0.0) == [(0, "a"), (1, "b")]
    scheduler.apply(AttemptEnded(1, 1, "b", STOPPED), 1.0)
    scheduler.apply(HostLost("a", "gone", worker_ended=True), 1.0)
    assert started(scheduler, 2.0) == [(0, "b"), (1, "b")]


# -- in general ----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.none() | st.floats(1, 500), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(1, 5), st.lists(st.floats(1, 400), max_size=4)), min_size=1, max_size=3),
    st.floats(0, 300),
)
def test_whatever_is_started_there_is_a_slot_for_it_until_it_is_expected_to_end(
    seconds: list[float | None], pool: list[tuple[int, list[float]]], now: float
) -> None:
    hosts = {}
    for number, (slots, times) in enumerate(pool):
        falls = tuple(zip(sorted(times), range(slots - 1, -1, -1), strict=False))
        hosts[f"pc{number}"] = slots, Horizon(falls)
    scheduler = scheduler_of(seconds, hosts)
    starts = started(scheduler, now)
    for name, (slots, horizon) in hosts.items():
        own = [seconds[job] for job, host in starts if host == name]
        assert len(own) <= slots
        ends = [inf if length is None else now + length for length in own]
        for place, end in enumerate(ends):
            for moment, left in horizon.falls:
                if moment < end < inf:
                    assert sum(other > moment for other in ends[:place]) < left
    jobs = [job for job, _ in starts]
    assert len(jobs) == len(set(jobs))
