"""Why a job is where it is: an answer for every state, from events alone."""

from __future__ import annotations

import pytest

from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostUnusable,
    JobGivenUp,
    JobRecord,
    JobsAdded,
    JobsCancelled,
    JobsReopened,
    Outcome,
    RunClosed,
    RunOpened,
)
from pisa_fab.history import History
from pisa_fab.lock import moment
from pisa_fab.model import Policy
from pisa_fab.names import folded, listed
from pisa_fab.why import obstacle, unknown, uses, waiting, why

T = 1_800_000_000.0  # some Unix time
GOOD = Outcome(Ending.EXITED, exit_code=0, seconds=4.0)
BAD = Outcome(Ending.EXITED, exit_code=3, seconds=4.0, tail="no\n")
REFUSED = Outcome(Ending.REFUSED, tail="no space left on the home")
READY = HostReady("pc01", 2, "3.11", 4, "m1")


def history_of(*events: Event, jobs: int = 6, policy: Policy | None = None, left_out: int = 0) -> History:
    """Give what a run amounts to in which one event came a second, from T on."""
    history = History()
    records = [JobRecord(f"{n:016x}", ("s.py", str(n)), {"-n": str(n)}) for n in range(jobs)]
    opened = RunOpened("1", "head", 1, range(jobs - left_out), policy or Policy(retries=2), left_out=left_out)
    for second, event in enumerate((JobsAdded(0, records), opened, *events)):
        history.apply(T + second, event, T + second)
    return history


def answer(history: History, job: int = 0, *, head: bool = True, after: float = 1.0) -> str:
    lines = why(history, job, head=head, now=history.last_at + after)
    assert 1 <= len(lines) <= 3
    assert all(lines)
    return "\n".join(lines)


# -- nobody is there -------------------------------------------------------------------------------------


def test_a_job_that_was_left_out() -> None:
    assert "(--only), and not this one" in answer(history_of(READY, left_out=2), 5)


def test_a_job_that_the_jobs_file_no_longer_has() -> None:
    history = history_of(READY, RunOpened("1", "head", 1, (0, 1)))
    assert answer(history, 5) == "the jobs file of the last submit has no such job any more"


@pytest.mark.parametrize("reason", ["interrupted", "no host", "hopeless"])
def test_no_head_after_a_run_that_was_closed(reason: str) -> None:
    said = answer(history_of(READY, RunClosed(reason)), head=False)
    assert said.startswith("no head is at work: the run was ")
    assert said.endswith("submit again to go on")


def test_a_head_that_died() -> None:
    said = answer(history_of(READY), head=False)
    assert said == f"no head is at work: it died after {moment(T + 2)}; submit again to go on"


def test_no_host_has_answered() -> None:
    assert answer(history_of()) == "no host has answered yet; it is next"


def test_no_host_is_ready_and_each_reason_is_said() -> None:
    lost = [HostReady("pc03", 1), HostLost("pc03", "nothing heard for 30 s")]
    history = history_of(HostUnusable("pc01", "no venv"), HostUnusable("pc02", "no venv"), *lost)
    assert answer(history, 4).startswith(
        "no host is ready: pc01, pc02: no venv; pc03: nothing heard for 30 s; 4 jobs before it"
    )


# -- slots -----------------------------------------------------------------------------------------------


def test_all_slots_are_busy() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), AttemptStarted(1, 1, "pc01"))
    assert answer(history, 4) == "all 2 slots on 1 host are busy; 2 jobs before it"


def test_when_it_may_start_follows_from_the_rate() -> None:
    history = history_of(
        READY,
        AttemptStarted(0, 1, "pc01"),
        AttemptStarted(1, 1, "pc01"),
        AttemptEnded(0, 1, "pc01", GOOD),
        AttemptStarted(2, 1, "pc01"),
    )
    assert answer(history, 5, after=4.0).endswith("; 2 jobs before it; it may start in about 18 s")


def test_a_slot_is_free() -> None:
    assert answer(history_of(READY)) == "a slot is free: it starts in a moment; it is next"
    assert answer(history_of(READY), 4) == "0 of 2 slots on 1 host are busy; 4 jobs before it"


def test_a_head_that_starts_nothing_may_have_no_room() -> None:
    said = answer(history_of(READY), after=60.0)
    assert f"its head has noted nothing since {moment(T + 2)}" in said
    assert "a full disk" in said


def test_a_busy_pool_is_not_taken_for_a_full_disk() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), AttemptStarted(1, 1, "pc01"))
    assert answer(history, 2, after=600.0) == "all 2 slots on 1 host are busy; it is next"


def test_hosts_that_refuse_rest() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), AttemptEnded(0, 1, "pc01", REFUSED))
    assert answer(history, 1) == (
        "no host gets jobs for now: pc01: can start nothing: no space left on the home; 1 job before it"
    )
    assert obstacle(history, history.last_at + 5.0) == ""


def test_a_host_that_refuses_again_rests_again() -> None:
    refusals = [
        event
        for attempt in range(1, 6)
        for event in (AttemptStarted(0, attempt, "pc01"), AttemptEnded(0, attempt, "pc01", REFUSED))
    ]
    history = history_of(READY, *refusals)
    assert "can start nothing" in obstacle(history, history.last_at + 1.0)


def test_a_quarantined_host_gets_none_and_then_one() -> None:
    history = history_of(READY, HostQuarantined("pc01", "failed 3 jobs in a row"))
    assert answer(history, after=10.0) == (
        "no host gets jobs for now: pc01: failed 3 jobs in a row; tried again in 50 s; it is next"
    )
    assert [(use.state, use.slots) for use in uses(history, T + 90)] == [("probed", 1)]
    history.apply(T + 90, HostProbed("pc01"), T + 90)
    history.apply(T + 91, AttemptStarted(0, 1, "pc01"), T + 91)
    assert answer(history, 1) == "the only slot, on 1 host, is busy; it is next"


def test_waiting_says_it_for_all() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), AttemptStarted(1, 1, "pc01"))
    now = history.last_at
    assert waiting(history, head=True, now=now) == "4 jobs wait: all 2 slots on 1 host are busy"
    assert waiting(history, head=False, now=now) == ""
    done = history_of(READY, AttemptStarted(0, 1, "pc01"), jobs=1)
    assert waiting(done, head=True, now=now) == ""
    assert waiting(history_of(), head=True, now=now) == "6 jobs wait: no host has answered yet"
    assert waiting(history_of(READY, jobs=1), head=True, now=T) == "1 job waits: to be started in a moment"


# -- jobs with a past --------------------------------------------------------------------------------------


def test_a_job_that_failed_waits_behind_fresh_ones() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), AttemptEnded(0, 1, "pc01", BAD))
    said = answer(history)
    assert said.startswith("0 of 2 slots on 1 host are busy; 5 jobs before it")
    assert "it failed on pc01: try 2 of 3 comes after the jobs that have had none" in said


def test_a_job_in_doubt_says_until_when() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), HostLost("pc01", "silent"))
    assert answer(history) == (
        "it was running on pc01, which was lost (silent), and may still run there\n"
        f"unless pc01 comes back with it, it is run again from {moment(T + 4 + 65)} on"
    )
    assert answer(history, after=66.0).startswith("no host is ready: pc01: silent")


def test_a_job_in_doubt_because_its_head_died() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), RunOpened("1", "head", 2, range(6), epoch=2))
    assert "has not been heard of since, and may still run there" in answer(history)


def test_a_job_whose_hosts_are_lost_says_what_comes() -> None:
    policy = Policy(max_losses=2)
    history = history_of(
        READY,
        AttemptStarted(0, 1, "pc01"),
        HostLost("pc01", "off", worker_ended=True),
        HostReady("pc02", 1),
        policy=policy,
    )
    said = answer(history)
    assert said.startswith("a slot is free: it starts in a moment")
    assert "it was lost with pc01 and is given up the next time" in said
    started = AttemptStarted(0, 2, "pc02")
    for event in (started, HostLost("pc02", "off")):
        history.apply(T + 9, event, T + 9)
    assert f"it is given up from {moment(T + 74)} on: lost with pc01, pc02" in answer(history)


def test_a_last_chance_waits_for_a_host_without_another() -> None:
    history = history_of(
        READY,
        AttemptStarted(0, 1, "pc01"),
        AttemptStarted(1, 1, "pc01"),
        HostLost("pc01", "off", worker_ended=True),
        HostReady("pc02", 2),
        AttemptStarted(0, 2, "pc02"),
        policy=Policy(max_losses=2),
    )
    assert answer(history, 1).startswith("every host that is free runs another job that must not be lost")


def test_a_loss_puts_a_job_before_the_others() -> None:
    history = history_of(
        READY, AttemptStarted(3, 1, "pc01"), HostLost("pc01", "off", worker_ended=True), HostReady("pc02", 1)
    )
    assert answer(history, 3).endswith(
        "pc01 was lost with it: it comes before the jobs that have not been tried"
    )
    assert answer(history, 0).endswith("1 job before it")


# -- jobs that run or have ended -----------------------------------------------------------------------------


def test_a_job_that_runs() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"))
    assert answer(history, after=42.0) == f"it runs on pc01 since {moment(T + 3)}, for 42 s, attempt 1"
    dead = answer(history, head=False)
    assert dead.startswith(f"it was running on pc01 since {moment(T + 3)}, attempt 1, when its head ended\n")
    assert "within 60 s" in dead


def test_a_job_that_is_being_cancelled() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), CancelAsked((0, 1), "anna"))
    assert "is being ended" in answer(history, 0)
    assert answer(history, 1) == "it was asked to be cancelled and will be in a moment"
    history.apply(T + 9, HostLost("pc01", "off"), T + 9)
    assert f"it may still run on pc01, until {moment(T + 74)} at the latest" in answer(history, 0)
    history.apply(T + 10, JobsCancelled((1,)), T + 10)
    assert answer(history, 1) == "it was cancelled\nto run it again: submit --retry-failed"


@pytest.mark.parametrize(
    ("outcome", "said"), [(GOOD, "it succeeded on pc01 at "), (BAD, "it failed on pc01 at ")]
)
def test_a_job_that_has_ended(outcome: Outcome, said: str) -> None:
    events = (READY, AttemptStarted(0, 1, "pc01"), AttemptEnded(0, 1, "pc01", outcome))
    history = history_of(*events, jobs=1, policy=Policy())
    assert answer(history).startswith(f"{said}{moment(T + 3 + 4)}, attempt 1")
    assert "to run it again: submit " in answer(history, head=False)
    history.apply(T + 9, JobsReopened((0,)), T + 9)
    assert answer(history) == "a slot is free: it starts in a moment; it is next"


def test_a_job_that_was_given_up() -> None:
    history = history_of(READY, JobGivenUp(0, ("pc01", "pc02")))
    assert answer(history) == "it was given up: pc01, pc02 were lost while running it\n" + (
        "to run it again: submit --retry-failed"
    )


def test_an_ended_job_that_is_left_out_now() -> None:
    history = history_of(READY, AttemptStarted(0, 1, "pc01"), AttemptEnded(0, 1, "pc01", GOOD))
    history.apply(T + 9, RunOpened("1", "head", 1, (1,)), T + 9)
    assert answer(history).endswith("the jobs file of the last submit has no such job any more")


def test_an_unknown_job_names_the_range() -> None:
    assert unknown(history_of(jobs=41), 99) == "there is no job 0099: they are 0000 to 0040"
    assert unknown(History(), 99) == "there is no job 0099: nothing was submitted yet"


# -- names ---------------------------------------------------------------------------------------------------


def test_many_names_are_folded() -> None:
    names = [f"pc{n:02d}" for n in range(1, 35) if n != 7]
    assert listed(names) == "pc[01-06,08-34]"
    assert listed(names[:3]) == "pc01, pc02, pc03"
    assert folded(["b", "a1.x", "a2.x", "a9.y", "a03"]) == "b, a[1-2].x, a9.y, a03"


def test_what_is_before_a_job_is_what_is_started_before_it() -> None:
    history = history_of(
        READY,
        AttemptStarted(4, 1, "pc01"),
        AttemptStarted(5, 1, "pc01"),
        HostLost("pc01", "off", worker_ended=True),  # 4 and 5 have their last chance
        HostReady("pc02", 3),
        *[AttemptStarted(job, 1, "pc02") for job in (1, 3, 7)],
        *[AttemptEnded(job, 1, "pc02", BAD) for job in (3, 1)],  # to the end
        AttemptEnded(7, 1, "pc02", Outcome(Ending.STOPPED, signal=15)),  # to the front
        jobs=9,
        policy=Policy(retries=2, max_losses=2),
    )
    waiting_jobs = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    before = {job: history.scheduler.look(job).before for job in waiting_jobs}
    assert sorted(before.values()) == list(range(9))
    now = history.last_at + 100.0
    for n in range(10, 20):
        history.apply(now, HostReady(f"pc{n}", 1), now)
    started = [event.job for event in history.decide(now, now) if isinstance(event, AttemptStarted)]
    assert started == sorted(waiting_jobs, key=before.__getitem__)
