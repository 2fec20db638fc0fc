"""Second attempts of jobs that take longer than they should: when, where, and which of the two counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.attempts import Attempts
from pisa_fab.events import (
    Accept,
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Discard,
    Ending,
    Event,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    JobGivenUp,
    JobRecord,
    JobsAdded,
    JobsCancelled,
    JobsPaused,
    JobState,
    Outcome,
    RunOpened,
    SecondStarted,
    SlotsChanged,
    Stop,
)
from pisa_fab.history import History
from pisa_fab.model import Policy
from pisa_fab.progress import counted, logged
from pisa_fab.scheduler import Decision, Scheduler
from pisa_fab.stragglers import LEAST, Stragglers
from pisa_fab.why import why

GOOD = Outcome(Ending.EXITED, exit_code=0, seconds=3.0)
BAD = Outcome(Ending.EXITED, exit_code=1, seconds=3.0)
STOPPED = Outcome(Ending.STOPPED, signal=15)
REFUSED = Outcome(Ending.REFUSED)
POLICY = Policy(speculate=2.0)
SHOULD = 10.0  # seconds that every job should take at the most


def history_of(*events: Event, jobs: int = 1, policy: Policy = POLICY) -> History:
    history = History()
    records = [JobRecord(f"{n:016x}", ("job", str(n)), {"-n": str(n)}) for n in range(jobs)]
    opened = RunOpened("1", "head", 1, range(jobs), policy)
    for event in (JobsAdded(0, records), opened, *events):
        history.apply(0.0, event, 0.0)
    history.scheduler.longest = lambda job: SHOULD
    return history


def decide(history: History, now: float) -> list[Decision]:
    return history.decide(now, now)


def doubled() -> History:
    """Job 0 runs on a since 0 s, and on b since 20 s."""
    history = history_of(HostReady("a", 1, machine="m"), HostReady("b", 1, machine="n"))
    assert decide(history, 0.0) == [AttemptStarted(0, 1, "a")]
    assert decide(history, 20.0) == [SecondStarted(0, 2, "b")]
    return history


def end(history: History, attempt: int, host: str, outcome: Outcome, now: float = 30.0) -> list[object]:
    return [*history.apply(now, AttemptEnded(0, attempt, host, outcome), now)]


# -- when, and where -------------------------------------------------------------------------------------


def test_a_job_that_takes_too_long_gets_a_second_attempt_on_another_host() -> None:
    history = history_of(HostReady("a", 2), HostReady("b", 1))
    decide(history, 0.0)
    assert history.scheduler.wake_at() == 2 * SHOULD
    assert decide(history, 19.9) == []
    assert decide(history, 20.0) == [SecondStarted(0, 2, "b")]
    assert history.scheduler.wake_at() is None
    assert decide(history, 1000.0) == []  # one more at the most


def test_without_the_key_there_is_none() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1), policy=Policy())
    decide(history, 0.0)
    assert history.scheduler.wake_at() is None
    assert decide(history, 1e6) == []


def test_not_while_something_waits_nor_where_no_slot_is_free() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1), jobs=3)
    assert len(decide(history, 0.0)) == 2
    history.apply(50.0, SlotsChanged("b", 2), 50.0)
    assert decide(history, 50.0) == [AttemptStarted(2, 1, "b")]
    assert decide(history, 60.0) == []  # all slots are busy
    assert history.scheduler.wake_at() is None
    history.apply(61.0, AttemptEnded(2, 1, "b", GOOD), 61.0)
    assert decide(history, 61.0) == [SecondStarted(0, 2, "b")]


def test_never_before_anybody_knows_how_long_it_should_take() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1))
    history.scheduler.longest = lambda job: None
    decide(history, 0.0)
    assert decide(history, 1e6) == []


def test_the_longest_overdue_comes_first() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1), HostReady("c", 1), jobs=2)
    history.scheduler.longest = lambda job: (SHOULD, SHOULD / 2)[job]
    assert len(decide(history, 0.0)) == 2
    history.apply(10.0, HostLost("c", "off"), 10.0)
    assert decide(history, 25.0) == []
    history.apply(25.0, HostReady("c", 1), 25.0)
    assert decide(history, 25.0) == [SecondStarted(1, 2, "c")]


@pytest.mark.parametrize("verdict", [HostQuarantined("b", ""), HostProbed("b")])
def test_not_on_a_host_that_is_not_trusted(verdict: HostQuarantined | HostProbed) -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1), HostQuarantined("b", ""), verdict)
    decide(history, 0.0)
    assert [one for one in decide(history, 30.0) if isinstance(one, SecondStarted)] == []


def test_not_on_a_host_that_somebody_else_needs() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1))
    decide(history, 0.0)
    history.apply(1.0, SlotsChanged("b", 0, "anna works there"), 1.0)
    assert decide(history, 30.0) == []
    history.apply(31.0, SlotsChanged("b", 1), 31.0)
    assert decide(history, 31.0) == [SecondStarted(0, 2, "b")]


def test_not_where_the_job_has_failed_before() -> None:
    policy = Policy(retries=1, speculate=2.0)
    history = history_of(HostReady("a", 1), HostReady("b", 1), policy=policy)
    decide(history, 0.0)
    end(history, 1, "a", BAD)
    assert decide(history, 31.0) == [AttemptStarted(0, 2, "b")]
    assert decide(history, 100.0) == []


def test_what_may_take_hosts_down_with_it_and_what_nobody_wants_has_none() -> None:
    policy = Policy(max_losses=2, speculate=2.0)
    history = history_of(HostReady("a", 1), HostReady("b", 1), policy=policy)
    decide(history, 0.0)
    history.apply(1.0, HostLost("a", "off", worker_ended=True), 1.0)
    assert decide(history, 1.0) == [AttemptStarted(0, 2, "b")]
    history.apply(2.0, HostReady("a", 1), 2.0)
    assert decide(history, 100.0) == []
    history = history_of(HostReady("a", 1), HostReady("b", 1))
    decide(history, 0.0)
    history.apply(1.0, CancelAsked((0,), "me"), 1.0)
    assert decide(history, 100.0) == []


def test_a_job_that_stands_still_is_a_straggler_like_any_other() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1))
    decide(history, 0.0)
    history.apply(1.0, SlotsChanged("a", 0, "anna works there"), 1.0)
    history.apply(1.0, JobsPaused("a", (0,)), 1.0)
    assert decide(history, 20.0) == [SecondStarted(0, 2, "b")]
    assert end(history, 2, "b", GOOD) == [Accept(0, 2, "b", publish=True), Stop(0, 1, "a")]
    assert history.paused == {}
    assert history.hosts["a"].paused == 0
    assert history.results[0].started == 20.0


def test_an_attempt_that_was_taken_over_counts_from_the_first_look() -> None:
    stragglers = Stragglers()
    running = [AttemptStarted(0, 3, "a")]
    assert stragglers.overdue(running, lambda job: SHOULD, 1.5, 100.0) == []
    assert stragglers.wake_at == 115.0
    assert stragglers.overdue(running, lambda job: SHOULD, 1.5, 115.0) == [0]
    stragglers.rest()
    assert stragglers.wake_at is None


@given(
    st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(0, 50)), max_size=30),
    st.floats(1.01, 5),
    st.floats(100, 300),
)
def test_who_is_overdue_and_when_the_next_will_be(
    jobs: list[tuple[float, float | None]], factor: float, now: float
) -> None:
    stragglers = Stragglers()
    running = [AttemptStarted(job, 1, "a") for job in range(len(jobs))]
    for start, (given_at, _) in zip(running, jobs, strict=True):
        stragglers.started(start, given_at)
    found = stragglers.overdue(running, lambda job: jobs[job][1], factor, now)
    due = {
        job: given_at + max(LEAST, factor * should)
        for job, (given_at, should) in enumerate(jobs)
        if should is not None
    }
    assert found == sorted((job for job in due if due[job] <= now), key=lambda job: (due[job], job))
    assert stragglers.wake_at == min((moment for moment in due.values() if moment > now), default=None)


# -- which of the two counts -----------------------------------------------------------------------------


@pytest.mark.parametrize(("winner", "loser"), [((1, "a"), (2, "b")), ((2, "b"), (1, "a"))])
def test_the_first_success_counts_and_the_other_is_ended(
    winner: tuple[int, str], loser: tuple[int, str]
) -> None:
    history = doubled()
    assert end(history, *winner, GOOD) == [Accept(0, *winner, publish=True), Stop(0, *loser)]
    assert history.scheduler.finished
    assert history.results[0].host == winner[1]
    assert history.results[0].started == {1: 0.0, 2: 20.0}[winner[0]]
    # Its slot is free again when it has ended, as its worker says.
    assert (history.scheduler.load(loser[1]), history.hosts[loser[1]].running) == ((1, 1), 1)
    assert end(history, *loser, GOOD, 31.0) == [Discard(0, *loser)]
    assert (history.scheduler.load(loser[1]), history.hosts[loser[1]].running) == ((0, 1), 0)
    assert history.results[0].host == winner[1]
    assert end(history, *loser, GOOD, 31.0) == [Discard(0, *loser)]


def test_the_slot_of_the_other_is_free_when_its_host_is_lost_and_it_is_stopped_when_that_is_back() -> None:
    history = doubled()
    end(history, 2, "b", GOOD)
    history.apply(31.0, HostLost("a", "off"), 31.0)
    back = HostReady("a", 1, machine="m", resumed=True, holds=((0, 1),))
    assert history.apply(32.0, back, 32.0) == [Stop(0, 1, "a")]
    assert end(history, 1, "a", GOOD, 33.0) == [Discard(0, 1, "a")]
    assert history.scheduler.load("a") == (0, 1)


@pytest.mark.parametrize("outcome", [BAD, STOPPED, REFUSED, Outcome(Ending.TIMEOUT, signal=15)])
@pytest.mark.parametrize(("gone", "stays"), [((1, "a"), (2, "b")), ((2, "b"), (1, "a"))])
def test_what_ends_without_success_is_put_aside_and_the_other_decides(
    outcome: Outcome, gone: tuple[int, str], stays: tuple[int, str]
) -> None:
    history = doubled()
    assert end(history, *gone, outcome) == [Discard(0, *gone)]
    assert history.scheduler.running == {0: AttemptStarted(0, *stays)}
    assert history.scheduler.seconds == {}
    assert history.scheduler.look(0).failed_on == ()
    assert history.results == {}
    assert history.scheduler.load(gone[1])[0] == history.hosts[gone[1]].running == 0
    assert [one for one in decide(history, 1000.0) if isinstance(one, SecondStarted)] == []
    assert end(history, *stays, BAD, 1001.0) == [Accept(0, *stays, publish=True)]
    assert history.scheduler.state(0) is JobState.FAILED
    assert history.scheduler.look(0).failed_on == (stays[1],)
    assert history.results[0].started == {1: 0.0, 2: 20.0}[stays[0]]


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize(("lost", "stays"), [((1, "a"), (2, "b")), ((2, "b"), (1, "a"))])
def test_when_the_host_of_one_is_lost_the_other_goes_on(
    certain: bool, lost: tuple[int, str], stays: tuple[int, str]
) -> None:
    history = doubled()
    history.apply(25.0, HostLost(lost[1], "off", worker_ended=certain), 25.0)
    assert history.scheduler.running == {0: AttemptStarted(0, *stays)}
    assert len(history.scheduler.doubts) == 0
    assert history.scheduler.lost_with(0) == (lost[1],)
    machine = {"a": "m", "b": "n"}[lost[1]]
    back = HostReady(lost[1], 1, machine=machine, resumed=True, holds=((0, lost[0]),))
    assert history.apply(26.0, back, 26.0) == [Stop(0, *lost)]
    assert end(history, *lost, GOOD, 27.0) == [Discard(0, *lost)]
    assert end(history, *stays, GOOD, 28.0) == [Accept(0, *stays, publish=True)]


def test_a_job_that_takes_its_hosts_down_is_given_up_as_soon_as_without() -> None:
    history = history_of(*(HostReady(name, 1) for name in "abcdef"), policy=Policy(3, 3, speculate=2.0))
    now, hosts = 0.0, []
    while not history.scheduler.finished:
        decide(history, now)
        now += 25.0
        decide(history, now)
        for start in (*history.scheduler.running.values(), *history.scheduler.seconds.values()):
            hosts.append(start.host)
            history.apply(now, HostLost(start.host, "off", worker_ended=True), now)
    assert history.scheduler.state(0) is JobState.LOST
    assert len(hosts) == 3


def test_a_loss_for_which_the_job_had_to_be_given_up_while_it_runs_is_none() -> None:
    history = history_of(HostReady("a", 1), HostReady("b", 1), policy=Policy(max_losses=1, speculate=2.0))
    decide(history, 0.0)
    assert decide(history, 20.0) == [SecondStarted(0, 2, "b")]
    history.apply(21.0, HostLost("b", "off", worker_ended=True), 21.0)
    assert history.scheduler.lost_with(0) == ()
    history.apply(22.0, HostLost("a", "off", worker_ended=True), 22.0)
    assert decide(history, 22.0) == [JobGivenUp(0, ("a",))]


def test_a_cancelled_job_is_stopped_on_both_hosts() -> None:
    history = doubled()
    stops = history.apply(21.0, CancelAsked((0,), "me"), 21.0)
    assert stops == [Stop(0, 1, "a"), Stop(0, 2, "b")]
    assert end(history, 1, "a", STOPPED) == [Discard(0, 1, "a")]
    assert end(history, 2, "b", STOPPED) == [Accept(0, 2, "b", publish=False)]
    assert decide(history, 31.0) == [JobsCancelled((0,))]


def test_another_head_forgets_the_second_attempt_and_the_first_is_in_doubt() -> None:
    history = doubled()
    history.apply(25.0, RunOpened("1", "head", 2, range(1), POLICY, epoch=2), 25.0)
    assert [doubt.started for doubt in history.scheduler.doubts.values()] == [AttemptStarted(0, 1, "a")]
    second = HostReady("b", 1, machine="n", resumed=True, holds=((0, 2),))
    assert history.apply(26.0, second, 26.0) == [Stop(0, 2, "b")]
    assert end(history, 2, "b", GOOD, 27.0) == [Discard(0, 2, "b")]
    first = HostReady("a", 1, machine="m", resumed=True, holds=((0, 1),))
    assert history.apply(28.0, first, 28.0) == []
    assert decide(history, 28.0) == []
    assert decide(history, 48.0) == [SecondStarted(0, 3, "b")]


@pytest.mark.parametrize(
    "event",
    [
        SecondStarted(0, 2, "a"),  # the same host
        SecondStarted(0, 2, "z"),  # a host that is not ready
        SecondStarted(0, 1, "b"),  # an attempt that there was
        SecondStarted(7, 2, "b"),  # a job that there is not
    ],
)
def test_a_second_attempt_that_cannot_be_changes_nothing(event: SecondStarted) -> None:
    scheduler = Scheduler()
    scheduler.apply(RunOpened("1", "head", 1, range(1), POLICY))
    for ready in (HostReady("a", 2), HostReady("b", 2), AttemptStarted(0, 1, "a")):
        scheduler.apply(ready)
    before = scheduler.snapshot()
    scheduler.apply(event)
    after = scheduler.snapshot()
    assert after.pop("attempts") == [max(1, event.attempt if event.job == 0 else 1)]
    before.pop("attempts")
    assert after == before


# -- words -----------------------------------------------------------------------------------------------


def test_it_is_said_where_a_second_attempt_runs_and_why() -> None:
    history = doubled()
    assert logged(SecondStarted(0, 2, "b")) == (
        "0000.2: second attempt on b, because it takes longer than expected"
    )
    assert "1 running (1 with a second attempt)" in counted(history)
    first, second = why(history, 0, head=True, now=21.0)
    assert first.startswith("it runs on a")
    assert second == (
        "second attempt (2) on b, because it takes longer than expected; the first success counts"
    )


def told(*events: Event) -> list[str]:
    attempts = Attempts(0)
    for time, event in enumerate((AttemptStarted(0, 1, "a"), SecondStarted(0, 2, "b"), *events)):
        attempts.take(float(time), event)
    return [attempt.describe() for attempt in attempts.all]


def test_what_became_of_each_of_the_two_is_told() -> None:
    assert told() == ["runs", "runs, because the other takes longer than expected"]
    assert told(AttemptEnded(0, 2, "b", GOOD)) == ["not needed, attempt 2 was first", "succeeded"]
    assert told(AttemptEnded(0, 1, "a", GOOD), AttemptEnded(0, 2, "b", STOPPED)) == [
        "succeeded",
        "stopped; not needed, attempt 1 was first",
    ]
    assert told(AttemptEnded(0, 1, "a", BAD), AttemptEnded(0, 2, "b", GOOD)) == [
        "exit code 1; does not count, attempt 2 went on",
        "succeeded",
    ]
    assert told(HostLost("a", "off"), AttemptEnded(0, 2, "b", BAD)) == ["a was lost: off", "exit code 1"]
    assert told(HostLost("b", "off"), AttemptEnded(0, 1, "a", GOOD)) == ["succeeded", "b was lost: off"]
    assert told(RunOpened("1", "head", 2, range(1))) == ["its head was gone", "its head was gone"]


def test_the_attempt_that_counts_is_the_last() -> None:
    attempts = Attempts(0)
    for event in (AttemptStarted(0, 1, "a"), SecondStarted(0, 2, "b")):
        attempts.take(0.0, event)
    assert attempts.last is attempts.all[0]
    attempts.take(1.0, AttemptEnded(0, 2, "b", GOOD))
    assert attempts.last is attempts.all[1]
