"""Longest first: the order of fresh jobs, where it comes from, and how near the end is to the best."""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import heapify, heapreplace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab import order
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    Ending,
    HostLost,
    HostReady,
    JobRecord,
    JobsAdded,
    JobsReopened,
    Outcome,
    RunOpened,
)
from pisa_fab.history import History
from pisa_fab.model import Policy
from pisa_fab.queues import Queues

BAD = Outcome(Ending.EXITED, exit_code=1)


def good(seconds: float, paused: float = 0.0) -> Outcome:
    return Outcome(Ending.EXITED, exit_code=0, seconds=seconds + paused, paused=paused)


def history_of(jobs: int, slots: int = 1, policy: Policy | None = None) -> History:
    """A run of so many jobs, `-n 0`, `-n 1`, ..., on one host."""
    history = History()
    records = [JobRecord(f"{n:016x}", ("job", str(n)), {"-n": str(n)}) for n in range(jobs)]
    history.apply(0.0, JobsAdded(0, records))
    history.apply(0.0, RunOpened("1", "head", 1, range(jobs), policy or Policy()))
    history.apply(0.0, HostReady("a", slots))
    return history


def work(history: History, seconds: Sequence[float], begin: float = 0.0) -> tuple[list[int], float]:
    """Run everything; give the jobs in the order of their starts, and when the last one ended."""
    now, started = begin, []
    ends: list[tuple[float, int, int]] = []
    while not history.scheduler.finished:
        for event in history.decide(now, now):
            assert isinstance(event, AttemptStarted)
            started.append(event.job)
            ends.append((now + seconds[event.job], event.job, event.attempt))
        now, job, attempt = min(ends)
        ends.remove((now, job, attempt))
        history.apply(now, AttemptEnded(job, attempt, "a", good(seconds[job])), now)
    return started, now


def again(history: History, now: float, slots: int) -> None:
    """Open another run in which all jobs are asked for again."""
    history.apply(now, RunOpened("1", "head", 2, history.jobs, epoch=2), now)
    history.apply(now, JobsReopened(history.jobs), now)
    history.apply(now, HostReady("a", slots), now)


def longest_first(seconds: Sequence[float]) -> list[int]:
    return sorted(range(len(seconds)), key=lambda job: -seconds[job])


def bound(seconds: Sequence[float], slots: int) -> float:
    """No order ends before: the longest job, all slots busy, and of slots + 1 jobs two share one."""
    ranked = sorted(seconds, reverse=True)
    two = ranked[slots - 1] + ranked[slots] if len(ranked) > slots else 0.0
    return max(ranked[0], sum(seconds) / slots, two)


def makespan(seconds: Sequence[float], slots: int) -> float:
    """Give the end of a list schedule: each job to the slot that is free first."""
    ends = [0.0] * slots
    heapify(ends)
    for one in seconds:
        heapreplace(ends, ends[0] + one)
    return max(ends)


# -- the queues ------------------------------------------------------------------------------------------

KINDS = st.lists(st.sampled_from(["waiting", "done", "first", "last", "alone", "absent"]), max_size=60)


def queues_of(what: Sequence[str]) -> tuple[Queues, bytearray]:
    queues = Queues()
    queues.start([job for job, kind in enumerate(what) if kind != "absent"])
    for job, kind in enumerate(what):
        if kind in ("first", "last", "alone"):
            getattr(queues, f"put_{kind}")(job, "")
    return queues, bytearray(kind == "done" for kind in what)


def drained(queues: Queues, state: bytearray) -> list[int]:
    found = []
    while (item := queues.next(state, 0)) is not None:
        found.append(item[0])
        queues.remove(item[0])
        state[item[0]] = 1
    return found


@given(KINDS, st.randoms(use_true_random=False))
def test_fresh_jobs_come_in_the_order_that_was_given_and_all_others_where_they_came(
    what: list[str], dice: random.Random
) -> None:
    queues, state = queues_of(what)
    fresh = queues.fresh(state, 0)
    assert fresh == [job for job, kind in enumerate(what) if kind == "waiting"]
    dice.shuffle(fresh)
    queues.put_in_order(fresh)
    line = [job for job, kind in enumerate(what) if kind == "first"] + fresh
    line += [job for job, kind in enumerate(what) if kind == "last"]
    ahead = [job for job, _ in queues.ahead(state, 0, 100)]
    assert ahead == line
    alone = [job for job, kind in enumerate(what) if kind == "alone"]
    everything = alone + line
    assert [queues.before(job, state, 0) for job in everything] == list(range(len(everything)))
    assert set(queues.scattered(state, 0, 300)) <= set(fresh)
    assert queues.spread(state, 0, 60) == fresh
    assert drained(queues, state) == line
    assert not queues.is_in_order


@given(st.lists(st.booleans(), min_size=1, max_size=900), st.integers(1, 40), st.randoms())
def test_holes_in_an_order_change_nothing(taken: list[bool], most: int, dice: random.Random) -> None:
    """Jobs that are started out of turn, as before a window closes."""
    queues, state = Queues(), bytearray(len(taken))
    queues.start(range(len(taken)))
    jobs = [*range(len(taken))]
    dice.shuffle(jobs)
    queues.put_in_order(jobs)
    started = []
    for turn in range(0, len(jobs), max(1, len(jobs) // 5)):
        for place, (job, _) in enumerate(queues.ahead(state, 0, most)):
            if taken[(turn + place) % len(taken)]:
                state[job] = 1
                started.append(job)
        for job in queues.scattered(state, 0, most):
            state[job] = 1
            started.append(job)
    left = drained(queues, state)
    assert sorted(started + left) == sorted(jobs)
    assert left == [job for job in jobs if job in set(left)]


def test_from_all_over_an_order_what_comes_first_in_it_comes_first() -> None:
    queues, state = Queues(), bytearray(1000)
    queues.start(range(1000))
    queues.put_in_order([*reversed(range(1000))])
    found = list(queues.scattered(state, 0, 50))
    assert found == sorted(found, reverse=True)
    assert len(found) == 50
    assert max(found) > 950
    assert min(found) < 50


def test_jobs_that_are_asked_for_again_end_the_order() -> None:
    queues, state = Queues(), bytearray([1, 0, 0, 0])
    queues.start(range(4))
    queues.put_in_order([3, 2, 1])
    assert queues.next(state, 0) == (3, "")
    state[0] = 0
    queues.rewind(0)
    assert drained(queues, state) == [0, 1, 2, 3]


# -- where it comes from ---------------------------------------------------------------------------------


def test_nothing_is_known_at_first_and_then_the_numbers_count() -> None:
    history = history_of(4)
    assert work(history, [1.0, 2.0, 3.0, 4.0])[0] == [0, 1, 2, 3]


def test_a_second_run_is_in_the_order_of_the_last_times() -> None:
    history = history_of(5, slots=2)
    seconds = [3.0, 9.0, 1.0, 9.0, 5.0]
    _, now = work(history, seconds)
    again(history, now, 2)
    assert work(history, seconds, now)[0] == [1, 3, 4, 0, 2]  # of two that are alike, the lower number first


def test_only_a_success_says_how_long_a_job_takes_and_its_pauses_do_not_count() -> None:
    history = history_of(3, slots=3, policy=Policy(retries=0))
    history.decide(0.0, 0.0)
    history.apply(50.0, AttemptEnded(0, 1, "a", good(5.0)), 50.0)
    history.apply(50.0, AttemptEnded(1, 1, "a", good(4.0, paused=40.0)), 50.0)
    history.apply(50.0, AttemptEnded(2, 1, "a", Outcome(Ending.EXITED, exit_code=1, seconds=50.0)), 50.0)
    assert [history.order.last.of(job) for job in range(4)] == [5.0, 4.0, None, None]


def test_what_the_jobs_file_says_is_enough() -> None:
    history = history_of(6)
    history.forecast.given = lambda arguments: float(str(arguments["-n"])) + 1.0
    assert [event.job for event in history.decide(0.0, 0.0) if isinstance(event, AttemptStarted)] == [5]


def test_it_is_learned_while_it_runs_and_learned_better() -> None:
    """Jobs grow with their number: after the first ones the last are known to be the longest."""
    jobs = 40
    seconds = [1.1**n for n in range(jobs)]
    started, _ = work(history_of(jobs), seconds)
    early = 1 + next(place for place in range(jobs) if started[place] != place)
    assert early <= order.ENOUGH_TO_CORRECT + 1
    assert started[early - 1 :] == sorted(started[early - 1 :], reverse=True)


def test_what_nothing_is_known_of_comes_first() -> None:
    history = history_of(4, slots=2)
    history.decide(0.0, 0.0)
    for job, seconds in ((0, 2.0), (1, 7.0)):
        history.apply(9.0, AttemptEnded(job, 1, "a", good(seconds)), 9.0)
    again(history, 10.0, 1)
    assert work(history, [2.0, 7.0, 1.0, 1.0], 10.0)[0] == [2, 3, 1, 0]


def test_with_too_many_that_are_unknown_the_numbers_count_until_few_are_left() -> None:
    few, jobs = order.MOST_FORECAST, order.MOST_FORECAST + 3000
    history = history_of(jobs, slots=100)
    history.forecast.given = lambda arguments: 1.0 + int(str(arguments["-n"]))
    started = []
    for turn in range(60):
        for event in history.decide(float(turn), float(turn)):
            assert isinstance(event, AttemptStarted)
            started.append(event.job)
            history.apply(turn + 1.0, AttemptEnded(event.job, 1, "a", good(1.0 + event.job)), turn + 1.0)
    turned = next(place for place, job in enumerate(started) if job != place)
    assert 3000 <= turned <= 3000 + few // 4 + 100
    assert started[turned] == jobs - 1


def test_jobs_that_are_shorter_than_it_takes_to_find_the_longest_stay_as_they_are() -> None:
    history = history_of(2000, slots=10)
    history.forecast.given = lambda arguments: 0.01 + int(str(arguments["-n"])) / 1e6
    history.decide(0.0, 0.0)
    assert not history.scheduler.is_in_order


def test_lost_jobs_still_come_first_and_retries_last() -> None:
    history = history_of(6, slots=2, policy=Policy(retries=1))
    history.forecast.given = lambda arguments: 10.0 + int(str(arguments["-n"]))
    history.decide(0.0, 0.0)  # 5 and 4
    history.apply(1.0, AttemptEnded(5, 1, "a", BAD), 1.0)
    history.apply(1.0, HostLost("a", "gone", worker_ended=True), 1.0)
    history.apply(2.0, HostReady("b", 6), 2.0)
    started = [event.job for event in history.decide(2.0, 2.0) if isinstance(event, AttemptStarted)]
    assert started == [4, 3, 2, 1, 0, 5]


def test_a_replay_needs_no_order() -> None:
    history = history_of(30, slots=3)
    history.forecast.given = lambda arguments: 1.0 + int(str(arguments["-n"])) % 7
    events = history.decide(0.0, 0.0)
    replay = history_of(30, slots=3)
    for event in events:
        replay.apply(0.0, event, 0.0)
    assert replay.scheduler.snapshot() == history.scheduler.snapshot()
    assert replay.hosts == history.hosts


def test_what_comes_before_a_job_is_known_in_an_order() -> None:
    history = history_of(9, slots=2)
    history.forecast.given = lambda arguments: 10.0 + int(str(arguments["-n"])) * 5 % 9
    history.decide(0.0, 0.0)
    waiting = [job for job in range(9) if job not in history.scheduler.running]
    before = {job: history.scheduler.look(job).before for job in waiting}
    history.apply(1.0, HostReady("b", 9), 1.0)
    started = [event.job for event in history.decide(1.0, 1.0) if isinstance(event, AttemptStarted)]
    assert started == sorted(waiting, key=before.__getitem__)


# -- how much it helps -----------------------------------------------------------------------------------

SKEWED = st.lists(st.integers(0, 30).map(lambda n: 0.2 * 1.4**n), min_size=2, max_size=80)


@given(SKEWED, st.integers(1, 12))
def test_a_second_run_of_any_jobs_has_the_longest_first(seconds: list[float], slots: int) -> None:
    history = history_of(len(seconds), slots=slots)
    _, now = work(history, seconds)
    again(history, now, slots)
    started, end = work(history, seconds, now)
    assert started == longest_first(seconds)
    ranked = sorted(seconds, reverse=True)
    assert end - now == pytest.approx(makespan(ranked, slots))
    # Graham's bound is against the best schedule, which is itself at least as long as `bound`.
    assert end - now <= bound(seconds, slots) * (2 - 1 / slots) + 1e-6


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slots", [4, 16, 100])
def test_skewed_jobs_end_within_a_tenth_of_the_best_possible_time(seed: int, slots: int) -> None:
    """Times that grow like those of fib(n), each for some seeds, as people sweep them."""
    dice = random.Random(seed)
    seconds = [0.1 + 1.4**n * dice.uniform(0.9, 1.1) / 1000 for n in range(31) for _ in range(slots // 2)]
    history = history_of(len(seconds), slots=slots)
    _, first = work(history, seconds)
    again(history, first, slots)
    _, end = work(history, seconds, first)
    assert (end - first) / bound(seconds, slots) <= 1.1
    assert makespan(seconds, slots) / bound(seconds, slots) > 1.1  # by their numbers
    assert first / bound(seconds, slots) <= 1.1  # learned while it ran


@pytest.mark.parametrize("seed", range(6))
def test_what_shows_late_is_learned_in_time(seed: int) -> None:
    """The first two thirds of the jobs take as long as a start does; what grows beneath that shows then."""
    dice = random.Random(seed)
    seconds = [
        dice.uniform(0.005, 0.03) + 4.0 * 1.618 ** (n - 30) * dice.uniform(0.95, 1.05)
        for n in range(31)
        for _ in range(12)
    ]
    _, first = work(history_of(len(seconds), slots=16), seconds)
    assert first / bound(seconds, 16) <= 1.1
    assert makespan(seconds, 16) / bound(seconds, 16) > 1.15  # by their numbers


# -- the time that is left -------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0.1, 0.5, 0.9, 0.99])
def test_the_time_that_is_left_is_right_in_a_second_run(done: float) -> None:
    dice = random.Random(1)
    seconds = [dice.paretovariate(1.2) for _ in range(500)]
    history = history_of(500, slots=8)
    _, begin = work(history, seconds)
    again(history, begin, 8)
    end = begin + makespan(sorted(seconds, reverse=True), 8)
    now, ends = begin, []
    while now < begin + done * (end - begin):
        for event in history.decide(now, now):
            assert isinstance(event, AttemptStarted)
            ends.append((now + seconds[event.job], event.job, event.attempt))
        now, job, attempt = min(ends)
        ends.remove((now, job, attempt))
        history.apply(now, AttemptEnded(job, attempt, "a", good(seconds[job])), now)
    history.decide(now, now)
    left = history.eta(now)
    assert left == pytest.approx(end - now, rel=0.15, abs=0.5)


def test_before_the_first_job_ends_the_last_times_say_how_long_it_takes() -> None:
    history = history_of(10, slots=2)
    _, now = work(history, [4.0] * 10)
    again(history, now, 2)
    history.decide(now, now)
    assert history.eta(now) == pytest.approx(20.0)
    assert history.eta(now + 1.0) == pytest.approx(19.0)
