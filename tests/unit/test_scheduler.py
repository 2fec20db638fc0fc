"""The scheduler: events in, actions and decisions out; and its promises, whatever happens in what order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pisa_fab.events import (
    Accept,
    Action,
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Discard,
    Ending,
    Event,
    HostCleared,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostReleased,
    HostUnusable,
    JobGivenUp,
    JobRecord,
    JobsAdded,
    JobsCancelled,
    JobsReopened,
    JobState,
    Outcome,
    RunClosed,
    RunOpened,
    SecondStarted,
    SlotsChanged,
    Stop,
)
from pisa_fab.journal_format import decode, encode
from pisa_fab.model import Policy
from pisa_fab.scheduler import Decision, Scheduler
from pisa_fab.transitions import FINAL, TRANSITIONS, Happening

GOOD = Outcome(Ending.EXITED, exit_code=0)
BAD = Outcome(Ending.EXITED, exit_code=1)
STOPPED = Outcome(Ending.STOPPED, signal=15)
REFUSED = Outcome(Ending.REFUSED)
POLICY = Policy(retries=0, max_losses=3, lease=60.0, margin=5.0)
DOUBT = 65.0


def opened(jobs: Sequence[int], policy: Policy = POLICY) -> RunOpened:
    return RunOpened("1.0", "head", 1, tuple(jobs), policy)


def scheduler_with(*events: Event, jobs: int = 1, policy: Policy = POLICY) -> Scheduler:
    scheduler = Scheduler()
    scheduler.apply(opened(range(jobs), policy))
    for event in events:
        scheduler.apply(event)
    return scheduler


def ended(start: AttemptStarted, outcome: Outcome = GOOD) -> AttemptEnded:
    return AttemptEnded(start.job, start.attempt, start.host, outcome)


def placed(decisions: list[Decision]) -> list[tuple[int, str]]:
    return [(start.job, start.host) for start in decisions if isinstance(start, AttemptStarted)]


# -- the way of a job --------------------------------------------------------------------------------


def test_a_job_is_started_ends_and_is_published() -> None:
    scheduler = scheduler_with(HostReady("a", 1))
    assert scheduler.decide(0.0) == [AttemptStarted(0, 1, "a")]
    assert scheduler.running == {0: AttemptStarted(0, 1, "a")}
    assert scheduler.apply(AttemptEnded(0, 1, "a", GOOD)) == [Accept(0, 1, "a", publish=True)]
    assert scheduler.state(0) is JobState.SUCCEEDED
    assert scheduler.finished
    assert scheduler.decide(0.0) == []


def test_a_decision_is_applied_when_it_is_returned() -> None:
    scheduler = scheduler_with(HostReady("a", 1))
    scheduler.decide(0.0)
    assert scheduler.state(0) is JobState.RUNNING
    assert scheduler.decide(0.0) == []


def test_a_failure_without_retries_is_final_and_published() -> None:
    scheduler = scheduler_with(HostReady("a", 1), AttemptStarted(0, 1, "a"))
    assert scheduler.apply(AttemptEnded(0, 1, "a", BAD)) == [Accept(0, 1, "a", publish=True)]
    assert scheduler.state(0) is JobState.FAILED


@pytest.mark.parametrize(
    "outcome",
    [
        BAD,
        Outcome(Ending.EXITED, exit_code=255),
        Outcome(Ending.SIGNALLED, signal=11),
        Outcome(Ending.TIMEOUT, signal=15),
        Outcome(Ending.NOT_STARTED),
    ],
)
def test_every_ending_but_stopped_is_a_failure_and_uses_up_a_retry(outcome: Outcome) -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(retries=1))
    [first] = scheduler.decide(0.0)
    assert scheduler.apply(ended(first, outcome)) == [Accept(0, 1, "a", publish=False)]
    assert scheduler.decide(0.0) == [AttemptStarted(0, 2, "a")]
    assert scheduler.apply(AttemptEnded(0, 2, "a", outcome)) == [Accept(0, 2, "a", publish=True)]
    assert scheduler.state(0) is JobState.FAILED


def test_retries_come_after_fresh_work() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=3, policy=Policy(retries=1))
    order = []
    while not scheduler.finished:
        [start] = scheduler.decide(0.0)
        order.append((start.job, start.attempt))
        scheduler.apply(ended(start, BAD if start.job == 0 else GOOD))
    assert order == [(0, 1), (1, 1), (2, 1), (0, 2)]


def test_the_order_is_the_same_after_a_restart() -> None:
    policy = Policy(retries=1)
    scheduler = scheduler_with(HostReady("a", 3), jobs=5, policy=policy)
    starts = scheduler.decide(0.0)
    scheduler.apply(ended(starts[0], BAD))
    scheduler.apply(ended(starts[1], STOPPED))
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.apply(opened(range(5), policy))
    scheduler.apply(HostReady("a", 9))
    assert [job for job, _ in placed(scheduler.decide(0.0))] == [2, 1, 3, 4, 0]


def test_lost_jobs_come_before_fresh_work() -> None:
    scheduler = scheduler_with(HostReady("a", 2), jobs=4)
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.apply(HostReady("b", 3))
    assert placed(scheduler.decide(0.0)) == [(0, "b"), (1, "b"), (2, "b")]


def test_a_stopped_attempt_is_no_failure_and_runs_again() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=2)
    [first] = scheduler.decide(0.0)
    for attempt in range(1, 10):
        assert scheduler.apply(AttemptEnded(0, attempt, "a", STOPPED)) == [
            Accept(0, attempt, "a", publish=False)
        ]
        assert scheduler.decide(0.0) == [AttemptStarted(0, attempt + 1, "a")]
    assert first == AttemptStarted(0, 1, "a")


def test_a_retry_avoids_the_host_where_it_failed() -> None:
    scheduler = scheduler_with(HostReady("a", 2), HostReady("b", 1), policy=Policy(retries=5))
    [first] = scheduler.decide(0.0)
    scheduler.apply(ended(first, BAD))
    [second] = scheduler.decide(0.0)
    assert (first.host, second.host) == ("a", "b")
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.apply(ended(second, BAD))
    assert placed(scheduler.decide(0.0)) == [(0, "b")]  # there is no other


def test_a_batch_may_have_any_numbers_and_others_are_left_alone() -> None:
    scheduler = scheduler_with(HostReady("a", 9), jobs=3)
    scheduler.decide(0.0)
    scheduler.apply(AttemptEnded(1, 1, "a", GOOD))
    scheduler.apply(opened([1, 5, 7]))
    scheduler.apply(HostReady("a", 9))
    assert placed(scheduler.decide(1000.0)) == [(5, "a"), (7, "a")]
    assert scheduler.state(0) is JobState.IN_DOUBT
    assert scheduler.counts()[JobState.SUCCEEDED] == 1
    assert sum(scheduler.counts().values()) == 3
    assert list(scheduler.jobs_in(JobState.RUNNING)) == [5, 7]
    assert list(scheduler.jobs_in(JobState.IN_DOUBT)) == []


def test_an_empty_batch_is_finished() -> None:
    assert scheduler_with(jobs=0).finished
    assert Scheduler().finished


# -- hosts -------------------------------------------------------------------------------------------


def test_jobs_are_spread_over_the_hosts() -> None:
    scheduler = scheduler_with(HostReady("a", 3), HostReady("b", 3), HostReady("c", 3), jobs=3)
    assert placed(scheduler.decide(0.0)) == [(0, "a"), (1, "b"), (2, "c")]


def test_slots_are_filled_breadth_first_and_never_exceeded() -> None:
    scheduler = scheduler_with(HostReady("a", 3), HostReady("b", 1), jobs=9)
    assert placed(scheduler.decide(0.0)) == [(0, "a"), (1, "b"), (2, "a"), (3, "a")]
    assert scheduler.load("a") == (3, 3)


def test_the_host_that_runs_the_fewest_comes_first() -> None:
    scheduler = scheduler_with(HostReady("a", 3), HostReady("b", 3), jobs=7)
    starts = scheduler.decide(0.0)
    for start in starts:
        if start.job in (1, 3):
            scheduler.apply(ended(start))
    scheduler.apply(AttemptEnded(0, 1, "a", GOOD))
    assert placed(scheduler.decide(0.0)) == [(6, "b")]


def test_fewer_slots_kill_nothing_and_start_nothing() -> None:
    scheduler = scheduler_with(HostReady("a", 3), jobs=9)
    starts = scheduler.decide(0.0)
    scheduler.apply(SlotsChanged("a", 1))
    assert len(scheduler.running) == 3
    scheduler.apply(ended(starts[0]))
    scheduler.apply(ended(starts[1]))
    assert scheduler.decide(0.0) == []
    scheduler.apply(ended(starts[2]))
    assert placed(scheduler.decide(0.0)) == [(3, "a")]
    scheduler.apply(SlotsChanged("a", 2))
    assert placed(scheduler.decide(0.0)) == [(4, "a")]


def test_slots_change_on_hosts_that_are_ready_alone() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=3)
    scheduler.decide(0.0)
    scheduler.apply(SlotsChanged("z", 3))
    assert list(scheduler.ready_hosts) == ["a"]
    scheduler.apply(HostLost("a", "silent"))
    scheduler.apply(SlotsChanged("a", 3))
    assert list(scheduler.ready_hosts) == []
    assert scheduler.decide(0.0) == []


def test_a_host_without_slots_finishes_what_it_runs_and_leaves_nothing_behind() -> None:
    scheduler = scheduler_with(HostReady("a", 2), jobs=3)
    first, second = scheduler.decide(0.0)
    scheduler.apply(SlotsChanged("a", 0, "no longer in the cluster file"))
    for start in (first, second):
        assert scheduler.apply(ended(start)) == [Accept(start.job, 1, "a", publish=True)]
        assert scheduler.decide(0.0) == []
    scheduler.apply(HostReleased("a", "no longer in the cluster file"))
    assert list(scheduler.ready_hosts) == []
    assert scheduler.wake_at() is None


def test_a_host_that_is_released_with_jobs_all_the_same_leaves_no_doubt() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1), jobs=1)
    scheduler.decide(0.0)
    scheduler.apply(HostReleased("a", "no longer in the cluster file"), now=5.0)
    assert scheduler.decide(5.0) == [AttemptStarted(0, 2, "b")]


def test_a_host_that_comes_back_starts_empty() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=2)
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"))
    assert list(scheduler.ready_hosts) == []
    scheduler.apply(HostReady("a", 1))
    assert placed(scheduler.decide(0.0)) == [(1, "a")]


def test_a_host_that_is_lost_twice_or_unknown_changes_nothing() -> None:
    scheduler = scheduler_with(HostReady("a", 1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"))
    before = scheduler.snapshot()
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.apply(HostLost("z", "reset", worker_ended=True))
    assert scheduler.snapshot() == before


@pytest.mark.parametrize(
    "event",
    [
        HostUnusable("a", "no venv"),
        RunClosed("interrupted"),
        JobsAdded(0, (JobRecord("k", ("true",), {}),)),
    ],
)
def test_some_events_change_nothing(event: Event) -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=2)
    scheduler.decide(0.0)
    before = scheduler.snapshot()
    assert scheduler.apply(event) == []
    assert scheduler.snapshot() == before


# -- hosts that are heard of again -------------------------------------------------------------------


def in_doubt(machine: str = "m", jobs: int = 3) -> Scheduler:
    """The jobs run on host a, whose link has been silent since 100 s; host b waits for work."""
    scheduler = scheduler_with(HostReady("a", jobs, machine=machine), jobs=jobs)
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), now=100.0)
    scheduler.apply(HostReady("b", 9, machine="other"), now=100.0)
    return scheduler


def test_what_a_worker_holds_that_is_taken_up_again_goes_on() -> None:
    scheduler = in_doubt()
    holds = ((0, 1), (1, 1), (2, 1))
    assert scheduler.apply(HostReady("a", 3, machine="m", resumed=True, holds=holds), 110.0) == []
    assert scheduler.load("a") == (3, 3)
    assert scheduler.lost_with(0) == ()
    assert scheduler.decide(100.0 + DOUBT) == []
    assert scheduler.apply(AttemptEnded(1, 1, "a", GOOD)) == [Accept(1, 1, "a", publish=True)]


def test_an_order_that_a_worker_never_got_is_given_again_and_is_no_loss() -> None:
    scheduler = in_doubt()
    scheduler.apply(HostReady("a", 3, machine="m", resumed=True, holds=((1, 1),)), 110.0)
    assert sorted(placed(scheduler.decide(110.0))) == [(0, "b"), (2, "a")]
    assert scheduler.running[1] == AttemptStarted(1, 1, "a")
    assert scheduler.lost_with(0) == ()


def test_a_new_worker_on_the_same_machine_ends_the_doubt_and_is_a_loss() -> None:
    scheduler = in_doubt()
    scheduler.apply(HostReady("a", 3, machine="m"), 110.0)
    assert [start.attempt for start in scheduler.decide(110.0) if isinstance(start, AttemptStarted)] == [
        2
    ] * 3
    assert scheduler.lost_with(0) == ("a",)


@pytest.mark.parametrize("machine", ["another", ""])
@pytest.mark.parametrize("resumed", [True, False])
def test_a_worker_elsewhere_proves_nothing(machine: str, resumed: bool) -> None:
    """A name may lead to another machine, or to one that does not say which it is."""
    scheduler = in_doubt()
    scheduler.apply(HostReady("a", 3, machine=machine, resumed=resumed), 110.0)
    assert scheduler.decide(110.0) == []
    assert len(placed(scheduler.decide(100.0 + DOUBT))) == 3


@pytest.mark.parametrize("resumed", [True, False])
def test_a_worker_that_comes_twice_to_another_machine_proves_nothing(resumed: bool) -> None:
    scheduler = in_doubt()
    scheduler.apply(HostReady("a", 3, machine="another"), 110.0)
    scheduler.apply(HostLost("a", "silent"), 111.0)
    scheduler.apply(HostReady("a", 3, machine="another", resumed=resumed), 112.0)
    assert scheduler.decide(112.0) == []


def test_where_machines_have_no_id_a_new_worker_proves_nothing() -> None:
    scheduler = in_doubt(machine="")
    scheduler.apply(HostReady("a", 3), 110.0)
    assert scheduler.decide(110.0) == []


def test_a_new_head_adopts_what_runs_on_a_machine_that_an_earlier_head_knew() -> None:
    scheduler = scheduler_with(HostReady("a", 3, machine="m"), jobs=3)
    scheduler.decide(0.0)
    scheduler.apply(opened(range(3)), now=500.0)
    assert scheduler.apply(HostReady("a", 3, machine="m", resumed=True, holds=((0, 1), (2, 1))), 501.0) == []
    assert sorted(scheduler.running) == [0, 2]
    assert scheduler.decide(501.0) == [AttemptStarted(1, 2, "a")]


def test_what_nobody_wants_any_more_is_stopped_where_it_runs() -> None:
    scheduler = in_doubt()
    scheduler.apply(AttemptEnded(0, 1, "a", GOOD), 105.0)
    scheduler.decide(100.0 + DOUBT)  # the others run on b now
    holds = ((0, 1), (1, 1), (7, 4))
    actions = scheduler.apply(HostReady("a", 3, machine="m", resumed=True, holds=holds), 200.0)
    assert actions == [Stop(0, 1, "a"), Stop(1, 1, "a"), Stop(7, 4, "a")]
    assert scheduler.load("a") == (0, 3)
    assert scheduler.running[1] == AttemptStarted(1, 2, "b")


def test_a_job_that_was_found_again_can_be_lost_again() -> None:
    scheduler = in_doubt(jobs=1)
    scheduler.apply(HostReady("a", 1, machine="m", resumed=True, holds=((0, 1),)), 110.0)
    scheduler.apply(HostLost("a", "silent"), now=120.0)
    assert scheduler.decide(100.0 + DOUBT) == []
    assert scheduler.wake_at() == 120.0 + DOUBT
    assert scheduler.decide(120.0 + DOUBT) == [AttemptStarted(0, 2, "b")]
    assert scheduler.lost_with(0) == ("a",)


# -- hosts that are to blame -------------------------------------------------------------------------


def test_what_a_quarantined_host_failed_runs_elsewhere_with_its_budget_whole() -> None:
    scheduler = scheduler_with(HostReady("a", 2), HostReady("b", 1), jobs=3, policy=Policy(retries=0))
    starts = {start.job: start for start in scheduler.decide(0.0) if isinstance(start, AttemptStarted)}
    failed = [job for job, start in starts.items() if start.host == "a"]
    for job in failed:
        scheduler.apply(ended(starts[job], BAD))
    assert scheduler.counts()[JobState.FAILED] == 2
    scheduler.apply(HostQuarantined("a", "failed 2 jobs in a row", tuple(failed)))
    assert scheduler.counts()[JobState.WAITING] == 2
    assert scheduler.is_quarantined("a")
    assert scheduler.decide(0.0) == []  # b is full, a gets none
    scheduler.apply(SlotsChanged("b", 3))
    assert sorted(placed(scheduler.decide(0.0))) == [(job, "b") for job in failed]
    assert scheduler.apply(AttemptEnded(failed[0], 2, "b", BAD)) == [Accept(failed[0], 2, "b", publish=True)]


def test_quarantine_forgives_what_failed_there_and_nothing_else() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1), policy=Policy(retries=1))
    [first] = scheduler.decide(0.0)
    scheduler.apply(ended(first, BAD))
    [second] = scheduler.decide(0.0)
    assert second == AttemptStarted(0, 2, "b")
    scheduler.apply(ended(second, BAD))
    assert scheduler.state(0) is JobState.FAILED
    scheduler.apply(HostQuarantined("a", "", (0,)))
    assert scheduler.decide(0.0) == [AttemptStarted(0, 3, "b")]
    assert scheduler.apply(AttemptEnded(0, 3, "b", BAD)) == [Accept(0, 3, "b", publish=True)]


@pytest.mark.parametrize("event", [HostProbed("a"), HostCleared("a")])
def test_a_host_is_let_back_in(event: HostProbed | HostCleared) -> None:
    scheduler = scheduler_with(HostReady("a", 2), HostQuarantined("a", ""), jobs=3)
    assert scheduler.load("a") == (0, 0)
    scheduler.apply(event)
    assert scheduler.load("a") == (0, 1 if isinstance(event, HostProbed) else 2)
    assert scheduler.is_quarantined("a") is isinstance(event, HostProbed)
    assert len(scheduler.decide(0.0)) == scheduler.load("a")[1]


def test_a_host_that_refuses_rests_and_the_job_goes_elsewhere_at_no_cost() -> None:
    scheduler = scheduler_with(HostReady("a", 2), HostReady("b", 1), policy=Policy(retries=0))
    [first] = scheduler.decide(0.0)
    assert scheduler.apply(ended(first, REFUSED), 10.0) == [Accept(0, 1, "a", publish=False)]
    assert scheduler.decide(10.0) == [AttemptStarted(0, 2, "b")]
    assert scheduler.load("a") == (0, 0)
    rested = scheduler.wake_at()
    assert rested is not None
    assert rested > 10.0
    scheduler.decide(rested)
    assert scheduler.load("a") == (0, 2)
    assert scheduler.apply(AttemptEnded(0, 2, "b", BAD)) == [Accept(0, 2, "b", publish=True)]


def test_a_job_that_was_refused_waits_where_there_is_no_other_host() -> None:
    scheduler = scheduler_with(HostReady("a", 1))
    [first] = scheduler.decide(0.0)
    scheduler.apply(ended(first, REFUSED), 10.0)
    assert scheduler.decide(10.0) == []
    rested = scheduler.wake_at()
    assert rested is not None
    assert scheduler.decide(rested) == [AttemptStarted(0, 2, "a")]


# -- doubt and loss ----------------------------------------------------------------------------------


def test_a_silent_host_leaves_its_jobs_in_doubt_for_lease_and_margin() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), now=100.0)
    assert scheduler.state(0) is JobState.IN_DOUBT
    assert scheduler.wake_at() == 100.0 + DOUBT
    assert scheduler.decide(100.0 + DOUBT - 0.001) == []
    assert scheduler.decide(100.0 + DOUBT) == [AttemptStarted(0, 2, "b")]
    assert scheduler.lost_with(0) == ("a",)
    assert scheduler.wake_at() is None


def test_a_worker_that_was_seen_to_end_leaves_no_doubt() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "reset", worker_ended=True), now=100.0)
    assert scheduler.state(0) is JobState.WAITING
    assert scheduler.decide(100.0) == [AttemptStarted(0, 2, "b")]


@pytest.mark.parametrize("later", [50.0, 1000.0])
def test_a_late_result_counts_until_the_job_is_started_again(later: float) -> None:
    scheduler = scheduler_with(HostReady("a", 1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), now=0.0)
    assert scheduler.decide(later) == []  # no host
    assert scheduler.apply(AttemptEnded(0, 1, "a", GOOD), later) == [Accept(0, 1, "a", publish=True)]
    assert scheduler.finished
    assert scheduler.wake_at() is None
    assert scheduler.decide(later) == []


def test_a_result_that_comes_after_the_new_start_is_discarded() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"))
    scheduler.decide(DOUBT)
    assert scheduler.apply(AttemptEnded(0, 1, "a", GOOD)) == [Discard(0, 1, "a")]
    assert scheduler.state(0) is JobState.RUNNING


def test_an_old_doubt_does_not_end_a_new_one() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1), policy=Policy(retries=1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), now=0.0)
    scheduler.apply(AttemptEnded(0, 1, "a", BAD), now=20.0)
    assert scheduler.decide(20.0) == [AttemptStarted(0, 2, "b")]
    scheduler.apply(HostLost("b", "silent"), now=30.0)
    scheduler.apply(HostReady("c", 1))
    assert scheduler.decide(DOUBT) == []
    assert scheduler.wake_at() == 30.0 + DOUBT
    assert scheduler.decide(30.0 + DOUBT) == [AttemptStarted(0, 3, "c")]


def test_a_job_that_takes_hosts_down_is_given_up_with_their_names() -> None:
    scheduler = scheduler_with(policy=Policy(retries=9, max_losses=5))
    for attempt, host in enumerate("abcde", start=1):
        scheduler.apply(HostReady(host, 1))
        assert scheduler.decide(0.0) == [AttemptStarted(0, attempt, host)]
        scheduler.apply(HostLost(host, "reset", worker_ended=True))
    scheduler.apply(HostReady("f", 1))
    assert scheduler.decide(0.0) == [JobGivenUp(0, tuple("abcde"))]
    assert scheduler.state(0) is JobState.LOST
    assert scheduler.lost_with(0) == tuple("abcde")
    assert scheduler.finished


def test_jobs_with_one_loss_left_never_share_a_host() -> None:
    scheduler = scheduler_with(HostReady("a", 2), jobs=2, policy=Policy(max_losses=2))
    assert placed(scheduler.decide(0.0)) == [(0, "a"), (1, "a")]
    scheduler.apply(HostLost("a", "its worker was killed", worker_ended=True))
    scheduler.apply(HostReady("b", 2))
    assert placed(scheduler.decide(0.0)) == [(0, "b")]  # one of the two may be what killed the worker
    scheduler.apply(HostReady("c", 2))
    assert placed(scheduler.decide(0.0)) == [(1, "c")]
    scheduler.apply(HostLost("b", "its worker was killed", worker_ended=True))
    assert scheduler.decide(0.0) == [JobGivenUp(0, ("a", "b"))]
    scheduler.apply(AttemptEnded(1, 2, "c", GOOD))
    assert scheduler.state(1) is JobState.SUCCEEDED


def test_jobs_with_one_loss_left_run_one_after_the_other_on_the_last_host() -> None:
    scheduler = scheduler_with(HostReady("a", 2), jobs=3, policy=Policy(max_losses=2))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "gone", worker_ended=True))
    scheduler.apply(HostReady("b", 2))
    assert placed(scheduler.decide(0.0)) == [(0, "b"), (2, "b")]  # a fresh one may run beside it
    scheduler.apply(AttemptEnded(0, 2, "b", GOOD))
    assert placed(scheduler.decide(0.0)) == [(1, "b")]


def test_a_doubt_that_ends_may_end_the_job_even_with_no_host_left() -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(max_losses=1, lease=60, margin=5))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), now=0.0)
    assert scheduler.decide(DOUBT - 1) == []
    assert scheduler.decide(DOUBT) == [JobGivenUp(0, ("a",))]


def test_jobs_with_a_last_chance_get_a_host_each() -> None:
    scheduler = scheduler_with(HostReady("a", 2), jobs=3, policy=Policy(max_losses=2))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.apply(HostReady("b", 3))
    assert placed(scheduler.decide(0.0)) == [(0, "b"), (2, "b")]  # not job 1, beside a slot that is free
    scheduler.apply(HostReady("c", 1))
    assert placed(scheduler.decide(0.0)) == [(1, "c")]


def test_losses_and_failures_have_budgets_of_their_own() -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(retries=1, max_losses=2))
    scheduler.apply(ended(scheduler.decide(0.0)[0], BAD))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.apply(HostReady("a", 1))
    assert scheduler.decide(0.0) == [AttemptStarted(0, 3, "a")]
    assert scheduler.apply(AttemptEnded(0, 3, "a", GOOD)) == [Accept(0, 3, "a", publish=True)]


# -- stray reports -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "report",
    [
        AttemptEnded(0, 2, "a", GOOD),  # an attempt that nobody started
        AttemptEnded(0, 1, "b", GOOD),  # from another host
        AttemptEnded(1, 1, "a", GOOD),  # of a job that waits
        AttemptEnded(9, 1, "a", GOOD),  # of no job
        AttemptEnded(-1, 1, "a", GOOD),
    ],
)
def test_a_stray_report_is_discarded(report: AttemptEnded) -> None:
    scheduler = scheduler_with(AttemptStarted(0, 1, "a"), jobs=2)
    counts = scheduler.counts()
    assert scheduler.apply(report) == [Discard(report.job, report.attempt, report.host)]
    assert scheduler.counts() == counts
    assert scheduler.running == {0: AttemptStarted(0, 1, "a")}


@pytest.mark.parametrize("outcome", [GOOD, BAD, STOPPED])
def test_the_second_report_of_an_attempt_is_discarded(outcome: Outcome) -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(retries=1))
    [start] = scheduler.decide(0.0)
    scheduler.apply(ended(start, outcome))
    before = scheduler.snapshot()
    assert scheduler.apply(ended(start, GOOD)) == [Discard(0, 1, "a")]
    assert scheduler.snapshot() == before


def test_an_attempt_number_is_never_given_twice() -> None:
    scheduler = scheduler_with(HostReady("a", 1))
    scheduler.apply(AttemptEnded(0, 7, "a", GOOD))  # the line of its start was torn off
    assert scheduler.decide(0.0) == [AttemptStarted(0, 8, "a")]


# -- resume ------------------------------------------------------------------------------------------


def test_a_new_head_doubts_what_ran_and_forgets_the_hosts() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=2)
    scheduler.decide(0.0)
    scheduler.apply(opened(range(2)), now=500.0)
    assert scheduler.state(0) is JobState.IN_DOUBT
    assert list(scheduler.ready_hosts) == []
    scheduler.apply(HostReady("a", 2))
    assert placed(scheduler.decide(500.0)) == [(1, "a")]
    assert scheduler.wake_at() == 500.0 + DOUBT
    assert scheduler.decide(500.0 + DOUBT) == [AttemptStarted(0, 2, "a")]


def test_the_death_of_the_head_is_no_loss() -> None:
    scheduler = scheduler_with(policy=Policy(max_losses=1, lease=60, margin=5))
    for turn in range(5):
        scheduler.apply(opened(range(1), Policy(max_losses=1)), now=1000.0 * turn)
        scheduler.apply(HostReady("a", 1))
        assert scheduler.decide(1000.0 * turn + DOUBT) == [AttemptStarted(0, turn + 1, "a")]
    assert scheduler.lost_with(0) == ()


def test_a_shorter_lease_does_not_shorten_a_doubt_that_began_under_a_longer_one() -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(lease=600, margin=5))
    scheduler.decide(0.0)
    for now in (10.0, 20.0):
        scheduler.apply(opened(range(1), Policy(lease=60, margin=5)), now)
        assert scheduler.wake_at() == now + 605.0


def test_final_states_survive_a_restart_and_more_retries_run_failed_jobs_again() -> None:
    scheduler = scheduler_with(HostReady("a", 2), jobs=2)
    good, bad = scheduler.decide(0.0)
    scheduler.apply(ended(good))
    scheduler.apply(ended(bad, BAD))
    scheduler.apply(opened(range(2)))
    assert scheduler.finished
    scheduler.apply(opened(range(2), Policy(retries=1)))
    scheduler.apply(HostReady("a", 2))
    assert scheduler.decide(0.0) == [AttemptStarted(1, 2, "a")]
    scheduler.apply(AttemptEnded(1, 2, "a", BAD))
    assert scheduler.state(1) is JobState.FAILED


def test_fewer_retries_end_nothing_that_waits() -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(retries=5))
    scheduler.apply(ended(scheduler.decide(0.0)[0], BAD))
    scheduler.apply(opened(range(1), Policy(retries=0)))
    scheduler.apply(HostReady("a", 1))
    assert scheduler.decide(0.0) == [AttemptStarted(0, 2, "a")]
    scheduler.apply(AttemptEnded(0, 2, "a", BAD))
    assert scheduler.state(0) is JobState.FAILED


def test_more_losses_allowed_run_a_lost_job_again() -> None:
    scheduler = scheduler_with(HostReady("a", 1), policy=Policy(max_losses=1))
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "reset", worker_ended=True))
    scheduler.decide(0.0)
    assert scheduler.state(0) is JobState.LOST
    scheduler.apply(opened(range(1), Policy(max_losses=1)))
    assert scheduler.state(0) is JobState.LOST
    scheduler.apply(opened(range(1), Policy(max_losses=2)))
    scheduler.apply(HostReady("a", 1))
    assert scheduler.decide(0.0) == [AttemptStarted(0, 2, "a")]


@pytest.mark.parametrize("outcome", [GOOD, BAD])
def test_reopened_jobs_run_again_with_fresh_budgets_and_new_attempt_numbers(outcome: Outcome) -> None:
    scheduler = scheduler_with(HostReady("a", 9), jobs=3, policy=Policy(retries=1))
    for _ in range(2):
        for start in scheduler.decide(0.0):
            scheduler.apply(ended(start, outcome))
    assert scheduler.finished
    last = 1 if outcome is GOOD else 2
    scheduler.apply(JobsReopened((0, 2, 7)))
    assert scheduler.unfinished == 2
    starts = scheduler.decide(0.0)
    assert starts == [AttemptStarted(0, last + 1, "a"), AttemptStarted(2, last + 1, "a")]
    assert scheduler.apply(ended(starts[0], BAD)) == [Accept(0, last + 1, "a", publish=False)]


def test_reopening_leaves_unfinished_jobs_alone() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=2)
    scheduler.decide(0.0)
    before = scheduler.snapshot()
    scheduler.apply(JobsReopened((0, 1)))
    assert scheduler.snapshot() == before


def test_a_waiting_job_is_cancelled_at_once() -> None:
    scheduler = scheduler_with(jobs=3)
    assert scheduler.apply(CancelAsked((1, 2), "me@pc")) == []
    assert scheduler.is_unwanted(1)
    assert scheduler.decide(0.0) == [JobsCancelled((1, 2))]
    assert [scheduler.state(job) for job in range(3)] == [JobState.WAITING, *[JobState.CANCELLED] * 2]
    scheduler.apply(HostReady("a", 3))
    assert scheduler.decide(0.0) == [AttemptStarted(0, 1, "a")]
    assert not scheduler.is_unwanted(1)


def test_a_running_job_is_stopped_and_then_cancelled() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=1, policy=Policy(retries=3))
    [start] = scheduler.decide(0.0)
    assert scheduler.apply(CancelAsked((0,))) == [Stop(0, 1, "a")]
    assert scheduler.apply(CancelAsked((0,))) == []
    assert scheduler.decide(0.0) == []
    assert scheduler.state(0) is JobState.RUNNING
    assert scheduler.apply(ended(start, STOPPED)) == [Accept(0, 1, "a", publish=False)]
    assert scheduler.decide(0.0) == [JobsCancelled((0,))]
    assert scheduler.finished


def test_a_job_that_ends_by_itself_before_it_is_cancelled_counts() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=1)
    [start] = scheduler.decide(0.0)
    scheduler.apply(CancelAsked((0,)))
    assert scheduler.apply(ended(start, GOOD)) == [Accept(0, 1, "a", publish=True)]
    assert scheduler.decide(0.0) == []
    assert scheduler.state(0) is JobState.SUCCEEDED


def test_a_job_in_doubt_is_cancelled_when_the_doubt_is_over() -> None:
    scheduler = scheduler_with(HostReady("a", 1), HostReady("b", 1), jobs=1)
    scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), 10.0)
    assert scheduler.apply(CancelAsked((0,))) == []
    assert scheduler.decide(11.0) == []
    until = scheduler.wake_at()
    assert until is not None
    assert scheduler.decide(until) == [JobsCancelled((0,))]


def test_a_cancelled_job_that_is_found_again_on_its_host_is_stopped() -> None:
    scheduler = scheduler_with(HostReady("a", 1, machine="m"), jobs=1)
    [start] = scheduler.decide(0.0)
    scheduler.apply(HostLost("a", "silent"), 10.0)
    scheduler.apply(CancelAsked((0,)))
    back = HostReady("a", 1, machine="m", resumed=True, holds=((0, 1),))
    assert scheduler.apply(back) == [Stop(0, 1, "a")]
    scheduler.apply(ended(start, STOPPED))
    assert scheduler.decide(20.0) == [JobsCancelled((0,))]


def test_what_a_dead_head_was_to_cancel_is_cancelled_by_the_next() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=2)
    scheduler.decide(0.0)
    scheduler.apply(CancelAsked((0, 1)))
    scheduler.apply(opened(range(2)))
    assert scheduler.decide(0.0) == [JobsCancelled((1,))]
    until = scheduler.wake_at()
    assert until is not None
    assert scheduler.decide(until) == [JobsCancelled((0,))]
    scheduler.apply(JobsReopened((0,)))
    assert scheduler.state(0) is JobState.WAITING


def test_a_drained_scheduler_decides_nothing_but_takes_results() -> None:
    scheduler = scheduler_with(HostReady("a", 1), jobs=3)
    [start] = scheduler.decide(0.0)
    scheduler.drain()
    assert scheduler.apply(ended(start)) == [Accept(0, 1, "a", publish=True)]
    assert scheduler.decide(0.0) == []
    assert scheduler.wake_at() is None


# -- the table ---------------------------------------------------------------------------------------


def in_state(state: JobState) -> Scheduler:
    """Job 0 in a state, on host a, with one failure and one loss left; job 1 keeps the run going."""
    scheduler = scheduler_with(PROOF, jobs=1, policy=Policy(retries=0, max_losses=1))
    if state is JobState.WAITING:
        return scheduler
    scheduler.apply(AttemptStarted(0, 1, "a"))
    match state:
        case JobState.SUCCEEDED:
            scheduler.apply(AttemptEnded(0, 1, "a", GOOD))
        case JobState.FAILED:
            scheduler.apply(AttemptEnded(0, 1, "a", BAD))
        case JobState.IN_DOUBT:
            scheduler.apply(HostLost("a", "silent"))
        case JobState.CANCELLED:
            scheduler.apply(CancelAsked((0,)))
            scheduler.apply(AttemptEnded(0, 1, "a", STOPPED))
            scheduler.decide(0.0)
        case JobState.LOST:
            scheduler.apply(HostLost("a", "reset", worker_ended=True))
            scheduler.decide(0.0)
    return scheduler


# What makes each thing happen to job 0. A report is of its first attempt.
CAUSES: dict[Happening, tuple[Event, ...]] = {
    Happening.STARTED: (AttemptStarted(0, 2, "b"),),
    Happening.SUCCEEDED: (AttemptEnded(0, 1, "a", GOOD),),
    Happening.FAILED: (AttemptEnded(0, 1, "a", BAD),),
    Happening.STOPPED: (AttemptEnded(0, 1, "a", STOPPED),),
    Happening.HOST_ENDED: (HostLost("a", "reset", worker_ended=True),),
    Happening.HOST_SILENT: (HostLost("a", "silent"),),
    Happening.HEAD_GONE: (opened(range(1), Policy(retries=0, max_losses=1)),),
    Happening.GIVEN_UP: (JobGivenUp(0, ("a",)),),
    Happening.ALLOWED: (opened(range(1), Policy(retries=1, max_losses=2)),),
    Happening.REOPENED: (JobsReopened((0,)),),
    Happening.CANCELLED: (JobsCancelled((0,)),),
    Happening.FOUND: (HostReady("a", 1, resumed=True, holds=((0, 1),)),),
    Happening.UNKNOWN_THERE: (HostReady("a", 1, machine="m", resumed=True),),
    Happening.FORGIVEN: (HostQuarantined("a", "", (0,)),),
    Happening.DOUBLED: (HostReady("b", 1), SecondStarted(0, 2, "b")),
    Happening.PUT_ASIDE: (HostReady("b", 1), SecondStarted(0, 2, "b"), AttemptEnded(0, 2, "b", BAD)),
    Happening.ONE_LOST: (HostReady("b", 1), SecondStarted(0, 2, "b"), HostLost("b", "silent")),
}
# Another way for a worker to be known to have ended: a new one stands on its machine.
PROOF = HostReady("a", 1, machine="m")
REPORTS = (Happening.SUCCEEDED, Happening.FAILED, Happening.STOPPED, Happening.FAILED_ONCE)


@pytest.mark.parametrize(("state", "what"), [*product(JobState, CAUSES)], ids=str)
def test_every_event_in_every_state_does_what_the_table_says(state: JobState, what: Happening) -> None:
    scheduler = in_state(state)
    assert scheduler.state(0) is state
    for event in CAUSES[what]:
        scheduler.apply(PROOF if (state, what) == (JobState.IN_DOUBT, Happening.HOST_ENDED) else event)
    expected = TRANSITIONS.get((state, what), state)
    if (state, what) == (JobState.RUNNING, Happening.ALLOWED):
        expected = JobState.IN_DOUBT  # the same event is another head, too
    assert scheduler.state(0) is expected


@pytest.mark.parametrize("state", JobState)
def test_a_failure_with_retries_left_does_what_the_table_says(state: JobState) -> None:
    scheduler = in_state(state)
    scheduler._budgets.policy = Policy(retries=3)
    scheduler.apply(AttemptEnded(0, 1, "a", BAD))
    assert scheduler.state(0) is TRANSITIONS.get((state, Happening.FAILED_ONCE), state)


def test_only_another_policy_a_bad_host_or_the_user_gets_a_job_out_of_a_final_state() -> None:
    out = {what for (old, what), new in TRANSITIONS.items() if old in FINAL and new is not old}
    assert out == {Happening.ALLOWED, Happening.REOPENED, Happening.FORGIVEN}


def test_a_report_counts_only_while_the_attempt_may_run() -> None:
    assert {old for (old, what) in TRANSITIONS if what in REPORTS} == {JobState.RUNNING, JobState.IN_DOUBT}


# -- whatever happens --------------------------------------------------------------------------------

JOBS = 7
HOSTS = ("a", "b", "c")
POLICIES = st.builds(
    Policy,
    retries=st.integers(0, 2),
    max_losses=st.integers(1, 3),
    lease=st.sampled_from([10.0, 60.0]),
    margin=st.just(5.0),
    speculate=st.sampled_from([0.0, 1.5]),
)
LONGEST = 4.0  # seconds that a job should take at the most


OUTCOMES = st.sampled_from([GOOD, BAD, STOPPED, REFUSED])
MACHINES = st.sampled_from(["m", "n", ""])


class AnyRun(RuleBasedStateMachine):
    """Hosts come and go, results come late, twice or never, heads die; the promises hold after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = self.new_scheduler()
        self.lines: list[tuple[float, str]] = []
        self.now = 0.0
        self.attempts: list[AttemptStarted] = []
        self.published: dict[int, int] = {}  # how often, since the job was last asked for
        self.surely_over: dict[tuple[int, int], float] = {}  # attempts that went silent, and until when
        self.machines: dict[str, str] = {}  # where the name of a host has led last
        self.places: dict[tuple[int, int], str] = {}  # the machine of every attempt
        self.policy = POLICY
        self.drained = False
        self.unwanted: set[int] = set()  # jobs that somebody wants to be cancelled
        self.seconds: dict[int, AttemptStarted] = {}  # second attempts
        self.parting: set[AttemptStarted] = set()  # were told to stop, because another one succeeded
        self.given: dict[AttemptStarted, float] = {}  # when each was given to its host

    @staticmethod
    def new_scheduler() -> Scheduler:
        scheduler = Scheduler()
        scheduler.longest = lambda job: LONGEST
        return scheduler

    def happen(self, event: Event) -> list[Action]:
        self.lines.append((self.now, encode(self.now, event)))
        actions = self.scheduler.apply(event, self.now)
        for action in actions:
            if isinstance(action, Accept) and action.publish:
                self.published[action.job] = self.published.get(action.job, 0) + 1
        return actions

    def silence(self, starts: list[AttemptStarted], patience: float) -> None:
        for start in starts:
            key = (start.job, start.attempt)
            self.surely_over[key] = max(self.surely_over.get(key, 0.0), self.now + patience)

    @initialize(policy=POLICIES)
    def begin(self, policy: Policy) -> None:
        self.policy = policy
        self.happen(opened(range(JOBS), policy))
        self.host_comes_or_changes("a", 2)

    @rule(host=st.sampled_from(HOSTS), slots=st.sampled_from([2, 1, 3, 0]), machine=MACHINES)
    def host_comes_or_changes(self, host: str, slots: int, machine: str = "m") -> None:
        if host in self.scheduler.ready_hosts:
            self.happen(SlotsChanged(host, slots))
        else:
            self.worker_comes(HostReady(host, slots, machine=machine))
        self.decide()

    @rule(
        host=st.sampled_from(HOSTS), slots=st.integers(0, 3), machine=MACHINES, chosen=st.lists(st.booleans())
    )
    def worker_is_taken_up(self, host: str, slots: int, machine: str, chosen: list[bool]) -> None:
        if host in self.scheduler.ready_hosts:
            return
        there = [(a.job, a.attempt) for a in self.attempts if a.host == host]
        there = [attempt for attempt in reversed(there) if self.places[attempt] == machine]
        holds = tuple(attempt for attempt, held in zip(there, chosen, strict=False) if held)
        self.worker_comes(HostReady(host, slots, machine=machine, resumed=True, holds=holds))
        self.decide()

    def worker_comes(self, event: HostReady) -> None:
        """What it holds runs on, what else ran on its machine is over, and of any other it says nothing."""
        doubts = {job: (job, doubt.started.attempt) for job, doubt in self.scheduler.doubts.items()}
        here = {job: attempt for job, attempt in doubts.items() if self.was_on(attempt) == event.host}
        stops = self.happen(event)
        self.machines[event.host] = event.machine
        unwanted = [
            attempt
            for attempt in event.holds
            if attempt not in here.values() or self.scheduler.is_unwanted(attempt[0])
        ]
        assert stops == [Stop(*attempt, event.host) for attempt in unwanted]
        for job, attempt in doubts.items():
            if job in here and attempt in event.holds:
                expected = JobState.RUNNING
            elif job in here and event.machine and self.places[attempt] == event.machine:
                expected = JobState.WAITING
            else:
                expected = JobState.IN_DOUBT
            assert self.scheduler.state(job) is expected

    def was_on(self, attempt: tuple[int, int]) -> str:
        return next(a.host for a in self.attempts if (a.job, a.attempt) == attempt)

    @rule(host=st.sampled_from(HOSTS))
    def idle_host_is_released(self, host: str) -> None:
        if host in self.scheduler.ready_hosts and not self.scheduler.load(host)[0]:
            before = self.scheduler.counts()
            self.happen(HostReleased(host, "no longer in the cluster file"))
            assert host not in self.scheduler.ready_hosts
            assert self.scheduler.counts() == before

    @precondition(lambda self: self.scheduler.ready_hosts)
    @rule(data=st.data(), verdict=st.sampled_from([HostQuarantined, HostProbed, HostCleared]))
    def host_is_judged(
        self, data: st.DataObject, verdict: type[HostQuarantined | HostProbed | HostCleared]
    ) -> None:
        host = data.draw(st.sampled_from(sorted(self.scheduler.ready_hosts)))
        if verdict is not HostQuarantined:
            self.happen(verdict(host))
            return
        before = {job: self.scheduler.state(job) for job in range(JOBS)}
        forgiven = data.draw(st.sets(st.integers(0, JOBS - 1)))
        self.happen(HostQuarantined(host, "", tuple(sorted(forgiven))))
        for job, state in before.items():
            if job in forgiven and state is JobState.FAILED:
                state = JobState.WAITING
                self.published.pop(job, None)
            assert self.scheduler.state(job) is state
        assert self.scheduler.load(host)[1] == 0

    @precondition(lambda self: self.scheduler.running)
    @rule(data=st.data(), certain=st.booleans())
    def working_host_is_lost(self, data: st.DataObject, certain: bool) -> None:
        busy = {start.host for start in (*self.scheduler.running.values(), *self.seconds.values())}
        self.host_is_lost(data.draw(st.sampled_from(sorted(busy))), certain)

    @rule(host=st.sampled_from(HOSTS), certain=st.booleans())
    def host_is_lost(self, host: str, certain: bool) -> None:
        ran = [start for start in self.scheduler.running.values() if start.host == host]
        if not certain:
            self.silence(ran, self.policy.lease + self.policy.margin)
        doubled = {job for job, one in self.seconds.items() if host in (one.host, self.first(job).host)}
        after = {
            job: self.seconds[job] if self.first(job).host == host else self.first(job) for job in doubled
        }
        losses = {job: len(self.scheduler.lost_with(job)) for job in doubled}
        self.happen(HostLost(host, "gone", worker_ended=certain))
        for job in doubled:
            assert self.scheduler.running[job] == after[job]
            assert losses[job] <= len(self.scheduler.lost_with(job)) <= losses[job] + 1
            del self.seconds[job]
        self.parting = {start for start in self.parting if start.host != host}

    def first(self, job: int) -> AttemptStarted:
        return self.scheduler.running[job]

    @rule(seconds=st.sampled_from([0.0, 1.0, 14.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def decide(self) -> None:
        before = {job: self.scheduler.state(job) for job in range(JOBS)}
        over = {job: doubt.started for job, doubt in self.scheduler.doubts.items()}
        for decision in self.scheduler.decide(self.now):
            self.lines.append((self.now, encode(self.now, decision)))
            if isinstance(decision, HostQuarantined):
                for job in decision.jobs:
                    if before[job] is JobState.FAILED:  # for good, but it was forgiven
                        before[job] = JobState.WAITING
                        self.published.pop(job, None)
            if isinstance(decision, SecondStarted):
                self.a_straggler_gets_a_second_attempt(decision)
            if not isinstance(decision, AttemptStarted | JobGivenUp | JobsCancelled):
                continue
            for job in decision.jobs if isinstance(decision, JobsCancelled) else [decision.job]:
                if before[job] is JobState.IN_DOUBT:
                    assert self.now >= self.surely_over[(job, over[job].attempt)]
                else:
                    assert before[job] is JobState.WAITING
                assert (job in self.unwanted) is isinstance(decision, JobsCancelled)
            if isinstance(decision, AttemptStarted):
                assert decision.attempt > max(
                    (a.attempt for a in self.attempts if a.job == decision.job), default=0
                )
                self.attempts.append(decision)
                self.given[decision] = self.now
                self.places[(decision.job, decision.attempt)] = self.machines[decision.host]
                running, slots = self.scheduler.load(decision.host)
                assert slots
                if running > slots:  # sent ahead: not while a slot is free
                    loads = map(self.scheduler.load, self.scheduler.ready_hosts)
                    assert all(others >= its_slots for others, its_slots in loads)
        if not self.drained:
            self.nothing_waits_in_vain()
            here = self.unwanted & set(self.scheduler.jobs)
            assert not any(self.scheduler.state(job) is JobState.WAITING for job in here)
        wake_at = self.scheduler.wake_at()
        assert wake_at is None or wake_at > self.now

    def a_straggler_gets_a_second_attempt(self, decision: SecondStarted) -> None:
        first, job = self.first(decision.job), decision.job
        assert self.policy.speculate
        assert not self.scheduler.counts()[JobState.WAITING]
        assert job not in self.seconds
        assert job not in self.unwanted
        assert not self.has_last_chance(job)
        assert decision.host != first.host
        assert not self.scheduler.is_quarantined(decision.host)
        assert self.now - self.given[first] >= self.policy.speculate * LONGEST
        assert decision.attempt > max(a.attempt for a in self.attempts if a.job == job)
        start = AttemptStarted(job, decision.attempt, decision.host)
        self.attempts.append(start)
        self.places[job, start.attempt] = self.machines[start.host]
        self.seconds[job] = start
        self.given[start] = self.now
        running, slots = self.scheduler.load(start.host)
        assert running <= slots

    def nothing_waits_in_vain(self) -> None:
        """What waits beside a free slot has its last chance, and each host with one runs another such job."""
        loads = {host: self.scheduler.load(host) for host in self.scheduler.ready_hosts}
        free = {host for host, (running, slots) in loads.items() if running < slots}
        if free and self.scheduler.counts()[JobState.WAITING]:
            assert all(self.has_last_chance(job) for job in self.scheduler.jobs_in(JobState.WAITING))
            running = self.scheduler.running.values()
            assert free <= {start.host for start in running if self.has_last_chance(start.job)}

    def has_last_chance(self, job: int) -> bool:
        return 0 < len(self.scheduler.lost_with(job)) == self.policy.max_losses - 1

    @precondition(lambda self: self.scheduler.running or self.scheduler.doubts)
    @rule(data=st.data(), outcome=OUTCOMES, turn_ends=st.booleans())
    def attempt_ends(self, data: st.DataObject, outcome: Outcome, turn_ends: bool) -> None:
        doubtful = [doubt.started for doubt in self.scheduler.doubts.values()]
        running = [*self.scheduler.running.values(), *self.seconds.values()]
        start = data.draw(st.sampled_from([*running, *doubtful]))
        self.report(start, outcome, counts=start.job not in self.seconds)
        if turn_ends:
            self.decide()

    @precondition(lambda self: self.policy.speculate and not self.seconds)
    @rule(left=st.integers(1, 3))
    def the_last_jobs_take_too_long(self, left: int) -> None:
        for host in HOSTS:
            self.host_comes_or_changes(host, 3, "m")
        while len(self.scheduler.running) > left:
            self.report(next(iter(self.scheduler.running.values())), GOOD, counts=True)
            self.decide()
        self.time_passes(14.0)

    def report(self, start: AttemptStarted, outcome: Outcome, *, counts: bool) -> None:
        """Report the end of an attempt; of two the first success counts and ends the other."""
        second = self.seconds.get(start.job)
        others = {second, self.first(start.job)} - {start} if second is not None else set()
        is_one_of_two = len(others) == 1
        state = self.scheduler.state(start.job)
        action, *stops = self.happen(ended(start, outcome))
        self.parting.discard(start)
        if not is_one_of_two:
            assert isinstance(action, Accept) is counts
            assert stops == []
            return
        [other] = others
        assert other is not None
        del self.seconds[start.job]
        if outcome.succeeded:
            assert isinstance(action, Accept)
            assert action.publish
            assert stops == [Stop(other.job, other.attempt, other.host)]
            self.parting.add(other)
        else:
            assert isinstance(action, Discard)
            assert stops == []
            assert self.scheduler.state(start.job) is state is JobState.RUNNING
            assert self.first(start.job) == other

    @precondition(lambda self: self.parting)
    @rule(data=st.data(), outcome=OUTCOMES)
    def a_stopped_attempt_has_ended(self, data: st.DataObject, outcome: Outcome) -> None:
        order = sorted(self.parting, key=lambda start: (start.job, start.attempt))
        self.report(data.draw(st.sampled_from(order)), outcome, counts=False)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), outcome=OUTCOMES)
    def attempt_reports_late_or_again(self, data: st.DataObject, outcome: Outcome) -> None:
        start = data.draw(st.sampled_from(self.attempts))
        current = self.scheduler.running.get(start.job)
        doubt = self.scheduler.doubts.get(start.job)
        expected = start in (current, doubt.started if doubt else None)
        self.report(start, outcome, counts=expected)

    @rule(job=st.integers(0, JOBS + 2), attempt=st.integers(0, 4))
    def nonsense_is_reported(self, job: int, attempt: int) -> None:
        assert self.happen(AttemptEnded(job, attempt, "z", GOOD)) == [Discard(job, attempt, "z")]

    @rule(jobs=st.sets(st.integers(0, JOBS - 1)))
    def user_asks_again(self, jobs: set[int]) -> None:
        for job in jobs:
            if self.scheduler.state(job) in FINAL:
                self.published.pop(job, None)
                self.unwanted.discard(job)
        self.happen(JobsReopened(tuple(sorted(jobs))))

    @rule(jobs=st.sets(st.integers(0, JOBS - 1), min_size=1))
    def user_cancels(self, jobs: set[int]) -> None:
        runs = {job: start for job, start in self.scheduler.running.items() if job in jobs - self.unwanted}
        stops = self.happen(CancelAsked(tuple(sorted(jobs)), "me"))
        ended = [runs[job] for job in sorted(runs)]
        ended += [self.seconds[job] for job in sorted(runs) if job in self.seconds]
        assert stops == [Stop(start.job, start.attempt, start.host) for start in ended]
        self.unwanted |= {job for job in jobs if self.scheduler.state(job) not in FINAL}

    @invariant()
    def what_is_to_be_cancelled_ends_once(self) -> None:
        for job in range(JOBS):
            if self.scheduler.state(job) in FINAL and self.scheduler.state(job) is not JobState.FAILED:
                self.unwanted.discard(job)  # a failure may be forgiven
            assert self.scheduler.is_unwanted(job) is (job in self.unwanted)

    @precondition(lambda self: len(self.lines) > 20)
    @rule()
    def user_interrupts(self) -> None:
        self.scheduler.drain()
        self.drained = True

    @rule(policy=POLICIES, jobs=st.sets(st.integers(0, JOBS - 1), min_size=3))
    def head_dies_and_another_takes_over(self, policy: Policy, jobs: set[int]) -> None:
        for start in self.scheduler.running.values():
            self.silence([start], self.policy.lease + self.policy.margin)
        old = {job: self.scheduler.state(job) for job in range(JOBS)}
        self.scheduler = self.replayed(live=False)
        self.drained = False
        self.seconds.clear()
        self.parting.clear()
        self.now += 1.0
        self.policy = policy
        self.silence(
            [doubt.started for doubt in self.scheduler.doubts.values()], policy.lease + policy.margin
        )
        self.happen(opened(sorted(jobs), policy))
        for job, state in old.items():
            if state in FINAL and self.scheduler.state(job) not in FINAL:
                assert state not in (JobState.SUCCEEDED, JobState.CANCELLED)
                self.published.pop(job, None)  # the policy allows more

    def replayed(self, *, live: bool) -> Scheduler:
        """Fold the journal anew, with the clock that was, or as a later head does it, with none."""
        scheduler = self.new_scheduler()
        for now, line in self.lines:
            found = decode(line)
            assert found is not None
            scheduler.apply(found[1], now if live else 0.0)
        return scheduler

    @invariant()
    def counts_add_up(self) -> None:
        scheduler = self.scheduler
        states = [scheduler.state(job) for job in scheduler.jobs]
        assert scheduler.counts() == {state: states.count(state) for state in JobState}
        assert scheduler.unfinished == sum(state not in FINAL for state in states)

    @invariant()
    def a_job_has_one_attempt_at_most_and_another_where_it_takes_too_long(self) -> None:
        scheduler = self.scheduler
        assert scheduler.seconds == self.seconds
        assert all(second.host != self.first(job).host for job, second in self.seconds.items())
        assert not scheduler.running.keys() & scheduler.doubts.keys()
        for job in range(JOBS):
            assert (job in scheduler.running) == (scheduler.state(job) is JobState.RUNNING)
            assert (job in scheduler.doubts) == (scheduler.state(job) is JobState.IN_DOUBT)

    @invariant()
    def hosts_run_what_they_were_given(self) -> None:
        running = (*self.scheduler.running.values(), *self.seconds.values(), *self.parting)
        hosts = [start.host for start in running]
        assert set(hosts) <= set(self.scheduler.ready_hosts)
        for host in self.scheduler.ready_hosts:
            assert self.scheduler.load(host)[0] == hosts.count(host)

    @invariant()
    def a_result_counts_once(self) -> None:
        assert all(times == 1 for times in self.published.values())

    @invariant()
    def replay_equals_life(self) -> None:
        assert self.replayed(live=True).snapshot() == self.scheduler.snapshot()
        assert self.replayed(live=False).snapshot() == self.scheduler.snapshot()


AnyRun.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_the_promises_hold_whatever_happens = AnyRun.TestCase
