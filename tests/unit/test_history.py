"""What events amount to: records, results, hosts, rate and the time that is left."""

from __future__ import annotations

import pytest

from pisa_fab.endings import JobResult
from pisa_fab.events import (
    Accept,
    AttemptEnded,
    AttemptStarted,
    Discard,
    Ending,
    Event,
    HostLost,
    HostReady,
    HostUnusable,
    JobGivenUp,
    JobRecord,
    JobsAdded,
    JobsReopened,
    JobState,
    Outcome,
    RunClosed,
    RunOpened,
)
from pisa_fab.history import History, HostView
from pisa_fab.model import Policy

BAD = Outcome(Ending.EXITED, exit_code=1, seconds=1.0, tail="no\n")


def good(seconds: float = 1.0) -> Outcome:
    return Outcome(Ending.EXITED, exit_code=0, seconds=seconds)


def opened(jobs: int, policy: Policy | None = None) -> RunOpened:
    return RunOpened("1.0", "head", 1, tuple(range(jobs)), policy or Policy())


def history_of(*entries: tuple[float, Event]) -> History:
    history = History()
    for time, event in entries:
        history.apply(time, event, time)
    return history


def record(key: str) -> JobRecord:
    return JobRecord(key, ("echo", key), {"-n": key})


# -- jobs and results --------------------------------------------------------------------------------


def test_records_and_numbers_come_from_the_jobs_added() -> None:
    history = history_of((1.0, JobsAdded(0, (record("x"), record("y")))), (2.0, JobsAdded(2, (record("z"),))))
    assert history.records == {0: record("x"), 1: record("y"), 2: record("z")}
    assert history.numbers() == {"x": 0, "y": 1, "z": 2}
    assert history.next_number == 3


def test_an_empty_history_knows_nothing() -> None:
    history = History()
    assert (history.opened, history.closed, history.next_number) == (None, None, 0)
    assert history.numbers() == {}
    assert list(history.failures()) == []
    assert history.rate(1.0) is None
    assert history.eta(1.0) == 0.0


def test_a_result_knows_where_and_when_it_came_about() -> None:
    history = history_of((1.0, opened(1)), (2.0, HostReady("a", 1)), (3.0, AttemptStarted(0, 1, "a")))
    assert history.apply(9.0, AttemptEnded(0, 1, "a", good())) == [Accept(0, 1, "a", publish=True)]
    assert history.results == {0: JobResult(0, 1, "a", 3.0, good())}
    assert history.last_at == 9.0


def test_the_last_result_that_counted_stands() -> None:
    history = history_of(
        (1.0, opened(1, Policy(retries=1))),
        (2.0, HostReady("a", 1)),
        (3.0, AttemptStarted(0, 1, "a")),
        (4.0, AttemptEnded(0, 1, "a", BAD)),
        (5.0, AttemptStarted(0, 2, "a")),
        (6.0, AttemptEnded(0, 2, "a", good())),
    )
    assert history.apply(7.0, AttemptEnded(0, 1, "a", BAD)) == [Discard(0, 1, "a")]
    assert history.results == {0: JobResult(0, 2, "a", 5.0, good())}


def test_a_stopped_attempt_is_no_result() -> None:
    history = history_of(
        (1.0, opened(1)),
        (2.0, HostReady("a", 1)),
        (3.0, AttemptStarted(0, 1, "a")),
        (4.0, AttemptEnded(0, 1, "a", Outcome(Ending.STOPPED, signal=15))),
    )
    assert history.results == {}
    assert history.rate(5.0) is None
    assert history.hosts["a"].running == 0


def test_a_job_that_is_asked_for_again_has_no_result_until_it_ends_again() -> None:
    history = history_of(
        (1.0, opened(1)),
        (2.0, HostReady("a", 1)),
        (3.0, AttemptStarted(0, 1, "a")),
        (4.0, AttemptEnded(0, 1, "a", good())),
        (5.0, JobsReopened((0,))),
    )
    assert history.results == {}
    assert history.scheduler.state(0) is JobState.WAITING


def test_a_decision_is_taken_in_when_it_is_made() -> None:
    live = history_of((1.0, opened(3)), (2.0, HostReady("a", 2)))
    decisions = live.decide(3.0, 3.0)
    assert decisions == [AttemptStarted(0, 1, "a"), AttemptStarted(1, 1, "a")]
    assert live.hosts["a"].running == 2
    replay = history_of((1.0, opened(3)), (2.0, HostReady("a", 2)), *((3.0, event) for event in decisions))
    for history in (live, replay):
        history.apply(8.0, AttemptEnded(1, 1, "a", good()))
    assert live.results == replay.results == {1: JobResult(1, 1, "a", 3.0, good())}
    assert live.hosts == replay.hosts
    assert live.scheduler.snapshot() == replay.scheduler.snapshot()


def test_a_start_that_cannot_be_counts_nowhere() -> None:
    history = history_of((1.0, opened(1)), (2.0, HostReady("a", 2)), (3.0, AttemptStarted(0, 1, "a")))
    history.apply(4.0, AttemptStarted(0, 2, "a"))
    assert history.hosts["a"].running == 1


def test_failures_are_failed_jobs_and_then_those_given_up() -> None:
    history = history_of(
        (1.0, opened(3, Policy(max_losses=2))),
        (2.0, HostReady("a", 3)),
        (3.0, AttemptStarted(0, 1, "a")),
        (3.0, AttemptStarted(1, 1, "a")),
        (3.0, AttemptStarted(2, 1, "a")),
        (4.0, AttemptEnded(0, 1, "a", good())),
        (4.0, AttemptEnded(2, 1, "a", BAD)),
        (5.0, HostLost("a", "reset", worker_ended=True)),
        (6.0, HostReady("b", 1)),
        (7.0, AttemptStarted(1, 2, "b")),
        (8.0, HostLost("b", "reset", worker_ended=True)),
    )
    assert history.decide(9.0, 9.0) == [JobGivenUp(1, ("a", "b"))]
    assert list(history.failures()) == [JobResult(2, 1, "a", 3.0, BAD), JobGivenUp(1, ("a", "b"))]


# -- hosts and runs ----------------------------------------------------------------------------------


def test_hosts_are_followed() -> None:
    history = history_of(
        (1.0, opened(9)),
        (2.0, HostReady("a", 2)),
        (2.0, HostUnusable("b", "no venv")),
        (3.0, AttemptStarted(0, 1, "a")),
        (3.0, AttemptStarted(1, 1, "a")),
        (4.0, AttemptEnded(0, 1, "a", BAD)),
    )
    assert history.hosts == {
        "a": HostView("a", "ready", 2, running=1, done=1),
        "b": HostView("b", "unusable", reason="no venv"),
    }
    history.apply(5.0, HostLost("a", "silent"))
    assert history.hosts["a"] == HostView("a", "lost", 2, running=0, done=1, reason="silent")
    history.apply(6.0, AttemptEnded(1, 1, "a", good()))  # late, and it counts
    assert history.hosts["a"] == HostView("a", "lost", 2, running=0, done=2, reason="silent")
    history.apply(7.0, HostReady("a", 3))
    assert history.hosts["a"] == HostView("a", "ready", 3, running=0, done=2)


def test_more_slots_keep_what_runs() -> None:
    history = history_of((1.0, opened(9)), (2.0, HostReady("a", 1)), (3.0, AttemptStarted(0, 1, "a")))
    history.apply(4.0, HostReady("a", 4))
    assert history.hosts["a"] == HostView("a", "ready", 4, running=1)


def test_a_new_run_begins_with_no_hosts_and_is_not_closed() -> None:
    history = history_of((1.0, opened(1)), (2.0, HostReady("a", 1)), (3.0, RunClosed("interrupted")))
    assert history.closed == RunClosed("interrupted")
    assert list(history.hosts) == ["a"]
    history.apply(4.0, opened(1))
    assert (history.opened, history.opened_at, history.closed) == (opened(1), 4.0, None)
    assert history.hosts == {}


# -- rate and time left ------------------------------------------------------------------------------


def run(history: History, time: float, seconds: float, rounds: int) -> float:
    """Let the ready hosts run full rounds of jobs that take so long; give the time when they have ended."""
    for _ in range(rounds):
        history.decide(time, time)
        time += seconds
        for start in list(history.scheduler.running.values()):
            history.apply(time, AttemptEnded(start.job, start.attempt, start.host, good(seconds)), time)
    return time


def test_rate_and_eta_of_an_even_run() -> None:
    history = history_of((0.0, opened(100)), (0.0, HostReady("a", 10)))
    time = run(history, 0.0, 10.0, 4)
    history.decide(time, time)
    assert history.rate(time) == pytest.approx(1.0)
    assert history.eta(time) == pytest.approx(60.0)
    end = run(history, time, 10.0, 6)
    assert end == 100.0
    assert history.eta(end) == 0.0


def test_before_the_first_end_nothing_is_known() -> None:
    history = history_of((0.0, opened(100)), (0.0, HostReady("a", 10)))
    history.decide(0.0, 0.0)
    assert history.rate(5.0) is None
    assert history.eta(5.0) is None


def test_an_interruption_does_not_count() -> None:
    history = history_of((0.0, opened(1000)), (0.0, HostReady("a", 10)))
    run(history, 0.0, 10.0, 4)
    night = 40_000.0
    history.apply(night, RunClosed("interrupted"))
    assert history.eta(night) is None
    history.apply(night, opened(1000), night)
    history.apply(night, HostReady("a", 10), night)
    assert history.rate(night + 1) is None
    time = run(history, night, 10.0, 4)
    history.decide(time, time)
    assert history.rate(time) == pytest.approx(1.0)


def test_the_rate_is_that_of_late() -> None:
    history = history_of((0.0, opened(10_000)), (0.0, HostReady("a", 1)))
    time = run(history, 0.0, 1.0, 1000)
    history.apply(time, HostReady("b", 9), time)
    time = run(history, time, 1.0, 200)
    assert history.rate(time) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize("seconds", [1.0, 60.0, 3600.0])
@pytest.mark.parametrize("moment", [0.0, 0.5, 0.9])
def test_jobs_that_end_together_do_not_upset_the_rate(seconds: float, moment: float) -> None:
    history = history_of((0.0, opened(1000)), (0.0, HostReady("a", 20)))
    time = run(history, 0.0, seconds, 20)
    history.decide(time, time)
    assert history.rate(time + moment * seconds) == pytest.approx(20 / seconds, rel=0.5)


def test_a_job_that_waits_takes_no_less_than_a_job_takes() -> None:
    history = history_of((0.0, opened(11)), (0.0, HostReady("a", 5)))
    time = run(history, 0.0, 100.0, 1)
    history.decide(time, time)
    assert history.eta(time) == pytest.approx(120.0)
    history.apply(time, HostLost("a", "reset", worker_ended=True))
    history.apply(time, HostReady("a", 1))
    history.decide(time, time)
    assert history.eta(time) == pytest.approx(120.0)


def test_when_all_run_the_youngest_says_how_long() -> None:
    history = history_of((0.0, opened(6)), (0.0, HostReady("a", 3)))
    time = run(history, 0.0, 100.0, 1)
    history.decide(time, time)
    assert history.eta(time) == pytest.approx(100.0)
    assert history.eta(time + 70.0) == pytest.approx(30.0)
    assert history.eta(time + 101.0) is None  # longer than the others took: nobody knows


def test_without_a_host_nobody_knows_when() -> None:
    history = history_of((0.0, opened(6)), (0.0, HostReady("a", 3)))
    time = run(history, 0.0, 100.0, 1)
    history.apply(time, HostLost("a", "silent"), time)
    assert history.eta(time) is None
