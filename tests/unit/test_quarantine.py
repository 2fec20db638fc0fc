"""Quarantine: which hosts are taken out, why, for how long; and its promises, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pisa_fab.events import AttemptEnded, Ending, HostCleared, HostProbed, HostQuarantined, Outcome
from pisa_fab.quarantine import (
    LONGEST_QUARANTINE,
    LONGEST_REST,
    MOST_FORGIVEN,
    MOST_HELD,
    QUARANTINE,
    REST,
    Quarantine,
    Standing,
    Verdict,
)

GOOD = Outcome(Ending.EXITED, exit_code=0)
BAD = Outcome(Ending.EXITED, exit_code=1)
TIMEOUT = Outcome(Ending.TIMEOUT)
STOPPED = Outcome(Ending.STOPPED, signal=15)
REFUSED = Outcome(Ending.REFUSED)
FAILURES = [BAD, Outcome(Ending.SIGNALLED, signal=11), Outcome(Ending.NOT_STARTED)]
IN_A_ROW = "failed 3 jobs in a row (0000, 0001, 0002), another host none so far"


class Pool(Quarantine):
    """Hosts `a`, `b`, ... with so many slots each; ends by a few letters."""

    def __init__(self, *slots: int) -> None:
        super().__init__()
        for host, number in zip("abcdefgh", slots, strict=False):
            self.ready(host, number)

    def end(self, host: str, jobs: Iterable[int], outcome: Outcome = BAD, now: float = 0.0) -> None:
        for job in jobs:
            self.ended(AttemptEnded(job, 1, host, outcome), now)

    def settle(self, now: float = 0.0) -> list[Verdict]:
        """Decide as the scheduler does, until nothing is due."""
        verdicts = self.decide(now)
        for verdict in verdicts:
            self.apply(verdict, now)
        assert self.decide(now) == []
        return verdicts

    def all_slots(self) -> list[int]:
        return [self.slots(host) for host in sorted(self._hosts)]


def pool_with_a_out() -> Pool:
    """A pool of three in which `a` was quarantined at time 0 for jobs 0, 1 and 2."""
    pool = Pool(2, 2, 2)
    pool.end("a", [0, 1, 2])
    assert pool.settle() == [HostQuarantined("a", IN_A_ROW, (0, 1, 2))]
    return pool


# -- failures in a row -------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_host_that_fails_three_jobs_in_a_row_is_quarantined_and_they_are_forgiven(outcome: Outcome) -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 1], outcome)
    assert pool.decide(0.0) == []
    pool.end("a", [2], outcome)
    assert pool.settle() == [HostQuarantined("a", IN_A_ROW, (0, 1, 2))]
    assert pool.all_slots() == [0, 1]
    assert pool.standing("a") is Standing.QUARANTINED


def test_a_verdict_takes_effect_only_when_it_is_applied() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 1, 2])
    assert pool.decide(0.0) == pool.decide(0.0) != []
    assert pool.all_slots() == [1, 1]


def test_the_same_job_again_does_not_lengthen_the_row() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 0, 0, 1, 1])
    assert pool.decide(0.0) == []


def test_a_host_with_many_slots_needs_as_many_failures() -> None:
    pool = Pool(5, 1)
    pool.end("a", range(4))
    assert pool.decide(0.0) == []
    pool.end("a", [4])
    assert [verdict.host for verdict in pool.settle()] == ["a"]


def test_fewer_slots_need_fewer_failures() -> None:
    pool = Pool(5, 1)
    pool.end("a", range(3))
    pool.resized("a", 2)
    assert [verdict.host for verdict in pool.settle()] == ["a"]


def test_a_success_ends_the_row() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 1])
    pool.end("a", [2], GOOD)
    pool.end("a", [3, 4])
    assert pool.decide(0.0) == []


@pytest.mark.parametrize("outcome", [STOPPED, REFUSED, TIMEOUT])
def test_some_ends_are_no_failures_in_a_row(outcome: Outcome) -> None:
    pool = Pool(1, 1)
    pool.end("a", range(9), outcome)
    assert pool.decide(0.0) == []
    pool.end("a", [10, 11])
    pool.end("a", [12], outcome)
    assert pool.decide(0.0) == []


def test_a_host_is_left_alone_while_every_other_fails_too_and_judged_when_one_does_well() -> None:
    pool = Pool(1, 1, 1)
    pool.end("b", [7])
    pool.end("c", [8], TIMEOUT)
    pool.end("a", [0, 1, 2])
    assert pool.decide(0.0) == []
    pool.end("b", [9], GOOD)
    assert pool.settle() == [HostQuarantined("a", IN_A_ROW, (0, 1, 2))]


@pytest.mark.parametrize("away", [lambda pool: pool.gone("b"), lambda pool: pool.resized("b", 0)])
def test_a_host_that_may_run_nothing_is_no_comparison(away: Callable[[Pool], None]) -> None:
    pool = Pool(1, 1, 1)
    pool.end("c", [7])
    away(pool)
    pool.end("a", [0, 1, 2])
    assert pool.decide(0.0) == []


def test_jobs_that_fail_on_two_hosts_are_to_blame_themselves() -> None:
    pool = Pool(1, 1, 1)
    pool.end("a", [0, 1])
    pool.end("b", [0, 1])  # now they are in nobody's row
    pool.end("b", [2, 3])
    pool.end("a", [4, 5])
    assert pool.decide(0.0) == []
    pool.end("a", [6])
    [verdict] = pool.settle()
    assert verdict == HostQuarantined(
        "a", "failed 3 jobs in a row (0004, 0005, 0006), another host none so far", (4, 5, 6)
    )


def test_a_forgiven_failure_does_not_make_the_job_suspicious() -> None:
    pool = pool_with_a_out()
    pool.ready("d", 2)
    pool.end("b", [0, 1, 2])
    assert pool.settle() == [HostQuarantined("b", IN_A_ROW, (0, 1, 2))]


def test_a_job_is_forgiven_twice_and_then_to_blame() -> None:
    pool = Pool(*[1] * 8)
    for host in "abc"[:MOST_FORGIVEN]:
        pool.end(host, [0, 1, 2])
        assert [verdict.host for verdict in pool.settle()] == [host]
    pool.end("c", [0, 1, 2, 3, 4])
    assert pool.decide(0.0) == []
    pool.end("c", [5])
    [verdict] = pool.settle()
    assert isinstance(verdict, HostQuarantined)
    assert verdict.jobs == (3, 4, 5)


def test_probes_with_the_job_that_failed_there_do_not_use_up_its_forgiveness() -> None:
    pool, now = pool_with_a_out(), 0.0
    for _ in range(2 * MOST_FORGIVEN):
        now = pool.wake_at() or now
        assert pool.settle(now) == [HostProbed("a")]
        pool.end("a", [0], now=now)
        assert pool.settle(now) == [HostQuarantined("a", "failed its probe (0000)", (0,))]
    pool.ready("d", 2)
    pool.end("b", [10, 11, 0], now=now)
    reason = "failed 3 jobs in a row (0010, 0011, 0000), another host none so far"
    assert pool.settle(now) == [HostQuarantined("b", reason, (10, 11, 0))]


def test_a_trusted_host_that_fails_the_same_jobs_again_uses_up_their_forgiveness() -> None:
    pool = Pool(1, 1)
    for turn in range(MOST_FORGIVEN):
        pool.end("a", [0, 1, 2])
        now = turn * QUARANTINE
        assert pool.settle(now) == [HostQuarantined("a", IN_A_ROW, (0, 1, 2))]
        pool.settle(now + QUARANTINE)
        pool.end("a", [9], GOOD)
        assert pool.settle(now + QUARANTINE) == [HostCleared("a")]
    pool.end("a", [0, 1, 2])
    assert pool.decide(0.0) == []


def test_hosts_that_fail_the_same_job_again_and_again_do_not_end_it_a_third_does() -> None:
    pool = Pool(*[1] * 6)
    for host in "ab":
        pool.end(host, [0, 1, 2])
        assert [verdict.host for verdict in pool.settle()] == [host]
    assert pool.settle(QUARANTINE) == [HostProbed("a"), HostProbed("b")]
    for host in "ab":
        pool.end(host, [0], now=QUARANTINE)
        assert pool.settle(QUARANTINE) == [HostQuarantined(host, "failed its probe (0000)", (0,))]
    pool.end("c", [10, 11, 12], now=QUARANTINE)
    pool.settle(QUARANTINE)
    assert pool.settle(2 * QUARANTINE) == [HostProbed("c")]
    pool.end("c", [0], now=2 * QUARANTINE)
    assert pool.settle(2 * QUARANTINE) == []
    assert pool.slots("c") == 1


# -- evidence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [*FAILURES, TIMEOUT])
def test_two_jobs_that_succeed_elsewhere_are_evidence(outcome: Outcome) -> None:
    pool = Pool(8, 8)
    pool.end("a", [3, 11, 12], outcome)
    pool.end("b", [99])  # it need not be innocent
    pool.end("b", [3], GOOD)
    pool.end("b", [98])
    assert pool.decide(0.0) == []
    pool.end("b", [11], GOOD)
    reason = "2 jobs that failed here succeeded elsewhere (0003, 0011)"
    assert pool.settle() == [HostQuarantined("a", reason, (12,))]


def test_evidence_needs_no_innocent_host_and_does_not_stand_in_for_one() -> None:
    pool = Pool(1, 1, 1, 1)
    pool.end("d", [9])
    pool.end("b", [10, 11, 12])
    pool.end("a", [0, 1])
    pool.end("c", [0, 1], GOOD)
    pool.end("c", [13])
    assert [verdict.host for verdict in pool.settle()] == ["a"]


def test_a_success_on_the_same_host_is_no_evidence() -> None:
    pool = Pool(1, 1)
    for job in range(9):
        pool.end("a", [job])
        pool.end("a", [job], GOOD)
    assert pool.decide(0.0) == []


def test_failures_before_the_last_success_are_no_evidence() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 1])
    pool.end("a", [2], GOOD)
    pool.end("b", [0, 1], GOOD)
    assert pool.decide(0.0) == []


def test_jobs_that_failed_on_two_hosts_and_then_succeed_are_evidence_against_both() -> None:
    pool = Pool(1, 1, 1, 1)
    pool.end("a", [0, 1])
    pool.end("b", [0, 1])
    pool.end("c", [0, 1], GOOD)
    assert [verdict.host for verdict in pool.settle()] == ["a", "b"]


def test_a_host_with_a_row_and_evidence_against_it_is_quarantined_once() -> None:
    pool = Pool(1, 1, 1, 1)
    pool.end("a", range(5))
    pool.end("b", [0, 1], GOOD)
    assert [verdict.host for verdict in pool.settle()] == ["a"]


# -- never all ---------------------------------------------------------------------------------------


def test_a_pool_of_one_is_never_touched() -> None:
    pool = Pool(2)
    pool.end("a", range(100))
    assert pool.decide(0.0) == []


def test_at_most_half_are_out_and_the_next_waits_for_room() -> None:
    pool = Pool(1, 1, 1)
    pool.end("a", [0, 1, 2])
    pool.end("b", [3, 4, 5])
    assert [verdict.host for verdict in pool.settle()] == ["a"]
    pool.ready("d", 1)
    assert [verdict.host for verdict in pool.settle()] == ["b"]
    assert pool.all_slots() == [0, 0, 1, 1]


def test_one_that_does_well_while_it_waits_is_let_off() -> None:
    pool = Pool(1, 1, 1)
    pool.end("a", [0, 1, 2])
    pool.end("b", [3, 4, 5])
    pool.settle()
    pool.end("b", [6], GOOD)
    pool.ready("d", 1)
    assert pool.settle() == []


def test_hosts_without_slots_do_not_make_room() -> None:
    pool = Pool(1, 1, 0, 0)
    pool.end("a", [0, 1], BAD)
    pool.end("b", [2, 3], BAD)
    pool.end("c", [0, 1, 2, 3], GOOD)
    assert [verdict.host for verdict in pool.settle()] == ["a"]


def test_when_the_others_go_away_those_that_are_out_are_probed_before_their_time() -> None:
    pool = Pool(1, 1, 1, 1)
    pool.end("a", [0, 1, 2])
    pool.settle(1.0)
    pool.end("b", [3, 4, 5], now=2.0)
    pool.settle(2.0)
    pool.gone("c")
    assert pool.settle(3.0) == [HostProbed("a")]
    pool.gone("d")
    assert pool.settle(3.0) == []
    pool.gone("a")
    assert pool.settle(3.0) == [HostProbed("b")]


# -- out, probed, back -------------------------------------------------------------------------------


def test_it_is_probed_after_its_time_and_cleared_by_its_first_success() -> None:
    pool = pool_with_a_out()
    assert pool.wake_at() == QUARANTINE
    assert pool.settle(QUARANTINE - 0.001) == []
    assert pool.settle(QUARANTINE) == [HostProbed("a")]
    assert pool.all_slots() == [1, 2, 2]
    assert pool.wake_at() is None
    pool.end("a", [9], GOOD)
    assert pool.settle(QUARANTINE) == [HostCleared("a")]
    assert pool.all_slots() == [2, 2, 2]
    assert pool.standing("a") is Standing.TRUSTED


def test_a_failed_probe_doubles_the_time_up_to_an_hour_and_a_cleared_host_begins_anew() -> None:
    pool, now, terms = pool_with_a_out(), 0.0, []
    for job in range(100, 110):
        due = pool.wake_at()
        assert due is not None
        terms.append(due - now)
        now = due
        assert pool.settle(now) == [HostProbed("a")]
        pool.end("a", [job])
        assert pool.settle(now) == [HostQuarantined("a", f"failed its probe (0{job})", (job,))]
    expected = [QUARANTINE * 2**n for n in range(6)]
    assert terms == expected + [LONGEST_QUARANTINE] * 4
    now += LONGEST_QUARANTINE
    pool.settle(now)
    pool.end("a", [200], GOOD)
    pool.settle(now)
    pool.end("a", [201, 202, 203])
    pool.settle(now)
    assert pool.wake_at() == now + QUARANTINE


@pytest.mark.parametrize("outcome", [TIMEOUT, *FAILURES])
def test_every_failure_fails_a_probe(outcome: Outcome) -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("a", [9], outcome)
    assert pool.settle(QUARANTINE) == [HostQuarantined("a", "failed its probe (0009)", (9,))]


@pytest.mark.parametrize("outcome", [STOPPED, REFUSED])
def test_some_ends_decide_no_probe(outcome: Outcome) -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("a", [9], outcome)
    assert pool.settle(QUARANTINE) == []


def test_a_probe_with_a_job_that_fails_everywhere_says_nothing() -> None:
    pool = pool_with_a_out()
    pool.end("b", [9])
    pool.settle(QUARANTINE)
    pool.end("a", [9])
    assert pool.settle(QUARANTINE) == []
    assert pool.slots("a") == 1


def test_a_failed_probe_waits_for_room_too() -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("b", [3, 4, 5], now=QUARANTINE)
    assert [verdict.host for verdict in pool.settle(QUARANTINE)] == ["b"]
    pool.end("a", [6, 7])
    assert pool.settle(QUARANTINE) == []
    assert pool.settle(2 * QUARANTINE) == [
        HostProbed("b"),
        HostQuarantined("a", "failed its probe (0006, 0007)", (6, 7)),
    ]


def test_what_a_host_still_had_when_it_was_quarantined_is_forgiven_and_does_not_keep_it_longer() -> None:
    pool = pool_with_a_out()
    pool.end("a", [9], now=50.0)
    reason = "failed 1 job that it still had (0009)"
    assert pool.settle(50.0) == [HostQuarantined("a", reason, (9,))]
    assert pool.wake_at() == QUARANTINE
    pool.end("a", [10, 11], TIMEOUT)
    assert pool.settle(QUARANTINE) == [
        HostQuarantined("a", "failed 2 jobs that it still had (0010, 0011)", (10, 11)),
        HostProbed("a"),
    ]


def test_what_a_host_still_had_does_not_clear_it() -> None:
    pool = pool_with_a_out()
    pool.end("a", [9], GOOD)
    assert pool.settle(1.0) == []
    assert pool.slots("a") == 0


@pytest.mark.parametrize(
    "event",
    [
        lambda pool: pool.end("a", [9], GOOD),  # it ran already when the host was quarantined
        lambda pool: pool.ready("a", 2),
    ],
)
def test_a_quarantined_host_is_no_comparison(event: Callable[[Pool], None]) -> None:
    pool = pool_with_a_out()
    pool.ready("d", 2)
    event(pool)
    pool.end("b", [3])
    pool.end("d", [4])
    pool.end("c", [5, 6, 7])
    assert pool.settle() == []
    pool.end("b", [8], GOOD)
    assert [verdict.host for verdict in pool.settle()] == ["c"]


def test_a_probe_that_succeeded_is_not_failed_any_more() -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("a", [9], GOOD)
    pool.end("a", [10])  # before anything was decided
    assert pool.settle(QUARANTINE) == [HostCleared("a")]
    pool.end("a", [11, 12])
    assert [verdict.host for verdict in pool.settle(QUARANTINE)] == ["a"]


def test_a_probed_host_has_no_slot_where_it_has_none() -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.resized("a", 0)
    assert pool.slots("a") == 0


def test_a_host_that_passed_its_probe_is_a_comparison_at_once() -> None:
    pool = pool_with_a_out()
    pool.end("b", [10])
    pool.end("c", [11, 12, 13])
    pool.ready("d", 2)
    pool.end("d", [14])
    assert pool.settle(QUARANTINE) == [HostProbed("a")]
    pool.end("a", [9], GOOD)
    assert [verdict.host for verdict in pool.settle(QUARANTINE)] == ["a", "c"]


# -- excuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [*FAILURES, TIMEOUT])
def test_a_host_is_probed_at_once_when_two_of_its_jobs_fail_where_nothing_else_did(outcome: Outcome) -> None:
    pool = pool_with_a_out()
    pool.end("b", [0], outcome, now=5.0)
    assert pool.settle(5.0) == []
    assert pool.wake_at() == QUARANTINE
    pool.end("c", [1], outcome, now=7.0)
    assert pool.wake_at() == 7.0
    assert pool.settle(7.0) == [HostProbed("a")]


def test_the_only_job_is_enough() -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("a", [9], now=QUARANTINE)
    pool.settle(QUARANTINE)
    pool.end("b", [9], now=QUARANTINE + 1)
    assert pool.settle(QUARANTINE + 1) == [HostProbed("a")]


@pytest.mark.parametrize(
    "witness",
    [
        lambda pool: pool.end("c", [0]),  # the same job once more
        lambda pool: pool.end("b", [1]),  # where another has failed
        lambda pool: pool.end("a", [1]),  # it ran there still
        lambda pool: pool.end("c", [9]),  # never forgiven
        lambda pool: pool.end("c", [1], STOPPED),
        lambda pool: pool.end("c", [1], GOOD),
    ],
)
def test_some_failures_excuse_nobody(witness: Callable[[Pool], None]) -> None:
    pool = pool_with_a_out()
    pool.end("b", [0])
    witness(pool)
    assert HostProbed("a") not in pool.settle(1.0)
    assert pool.wake_at() == QUARANTINE


def test_a_failure_on_another_suspect_excuses_nobody_but_the_next_one_may() -> None:
    pool = pool_with_a_out()
    pool.end("b", [9, 0, 1])  # b may well be another that fails everything
    assert HostProbed("a") not in pool.settle()
    pool.end("b", [10], GOOD)
    pool.end("b", [0])
    pool.end("c", [1])
    assert HostProbed("a") in pool.settle()


def test_after_an_excuse_every_host_needs_a_row_twice_as_long() -> None:
    pool = pool_with_a_out()
    pool.ready("d", 4)
    pool.end("b", [0])
    pool.end("c", [1])
    pool.settle()
    pool.end("a", [3], GOOD)  # there is somebody to compare with
    assert pool.settle() == [HostCleared("a")]
    pool.end("b", range(10, 14))  # the sixth is the first of them that was forgiven, and counts
    pool.end("d", range(20, 27))
    assert pool.settle() == []
    pool.end("b", [14])
    pool.end("d", [27])
    assert [verdict.host for verdict in pool.settle()] == ["b", "d"]


def test_rows_that_misled_at_the_same_time_lengthen_the_next_only_once() -> None:
    pool = Pool(*[1] * 8)
    for place, host in enumerate("abc"):
        pool.end(host, range(10 * place, 10 * place + 3))
    assert len(pool.settle()) == 3
    for job, host in zip((0, 1, 10, 11, 20), "defgh", strict=True):
        pool.end(host, [job])
    pool.end("h", [30], GOOD)
    pool.end("h", [21])
    assert pool.settle() == [HostProbed("a"), HostProbed("b"), HostProbed("c")]
    assert pool.snapshot()["leniency"] == 2


def test_one_that_waits_for_room_is_let_off_when_rows_must_be_longer() -> None:
    pool = Pool(1, 1, 1)
    pool.end("a", [0, 1, 2])
    pool.end("b", [3, 4, 5])
    assert [verdict.host for verdict in pool.settle()] == ["a"]
    pool.end("c", [0])
    pool.end("c", [9], GOOD)
    pool.end("c", [1])
    pool.end("c", [9], GOOD)
    assert pool.settle() == [HostProbed("a")]


def test_a_host_that_waits_for_its_probe_elsewhere_has_it_when_it_is_back() -> None:
    pool = pool_with_a_out()
    pool.gone("a")
    pool.end("b", [0])
    pool.end("c", [1])
    assert (pool.settle(1.0), pool.wake_at()) == ([], None)
    pool.ready("a", 2, resumed=True)
    assert pool.settle(2.0) == [HostProbed("a")]


def test_an_excuse_comes_too_late_for_a_probe_but_not_for_the_rows() -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("b", [0], now=QUARANTINE)
    pool.end("c", [1], now=QUARANTINE)
    assert pool.settle(QUARANTINE) == []
    assert pool.snapshot()["leniency"] == 2


def test_a_late_excuse_does_not_shorten_the_rows() -> None:
    pool = Pool(*[1] * 8)
    for host, first in (("a", 0), ("b", 10)):
        pool.end(host, range(first, first + 3))
        pool.settle()
    pool.end("c", [10])
    pool.end("d", [11])  # excuses b
    pool.settle()
    pool.end("b", [19], GOOD)
    pool.settle()
    pool.end("b", range(20, 26))
    assert [verdict.host for verdict in pool.settle()] == ["b"]
    pool.end("e", [20])
    pool.end("f", [21])  # and again
    assert pool.settle() == [HostProbed("b")]
    pool.end("g", [0])
    pool.end("h", [1])  # excuses a
    assert pool.settle() == [HostProbed("a")]
    assert pool.snapshot()["leniency"] == 4


def test_a_job_speaks_for_the_host_that_it_was_forgiven_last() -> None:
    pool = Pool(*[1] * 6)
    pool.end("a", [0, 1, 2])
    pool.settle()
    pool.end("b", [9, 0, 1])
    assert [verdict.host for verdict in pool.settle()] == ["b"]
    pool.end("c", [0])
    pool.end("d", [1])
    assert pool.settle() == [HostProbed("b")]


def test_a_host_that_passed_its_probe_needs_no_excuse() -> None:
    pool = pool_with_a_out()
    pool.settle(QUARANTINE)
    pool.end("a", [9], GOOD)
    pool.settle(QUARANTINE)
    pool.end("b", [0])
    pool.end("c", [1])
    assert pool.settle(QUARANTINE) == []
    assert pool.snapshot()["leniency"] == 1


def test_there_is_no_excuse_where_jobs_succeeded_elsewhere() -> None:
    pool = Pool(8, 8, 8)
    pool.end("a", range(5))
    pool.end("b", [0, 1], GOOD)
    reason = "2 jobs that failed here succeeded elsewhere (0000, 0001)"
    assert pool.settle() == [HostQuarantined("a", reason, (2, 3, 4))]
    pool.end("b", [2])
    pool.end("c", [3])
    assert pool.settle(QUARANTINE - 1) == []
    pool.settle(QUARANTINE)
    pool.end("a", [9])
    pool.settle(QUARANTINE)
    pool.end("b", [10], GOOD)
    pool.end("b", [9])  # its probe may be excused, but no row had misled
    assert pool.settle(QUARANTINE) == [HostProbed("a")]
    assert pool.snapshot()["leniency"] == 1


def test_an_excused_quarantine_does_not_lengthen_the_next() -> None:
    pool = pool_with_a_out()
    pool.end("b", [0])
    pool.end("c", [1])
    pool.settle()
    pool.end("a", [9])
    assert [verdict.host for verdict in pool.settle()] == ["a"]
    assert pool.wake_at() == QUARANTINE


def test_a_black_hole_among_jobs_that_fail_by_themselves_lengthens_rows_once() -> None:
    pool, now = pool_with_a_out(), 0.0
    for job in range(10, 60):
        now = pool.wake_at() or now
        assert pool.settle(now) == [HostProbed("a")]
        pool.end("a", [job], now=now)
        pool.settle(now)
        pool.end("b", [job], now=now)  # excuses a
        pool.end("b", [9], GOOD, now)
    assert pool.snapshot()["leniency"] == 2


def test_rows_never_need_more_than_is_remembered() -> None:
    pool = Pool(MOST_HELD, 1, 1)
    pool.end("a", range(MOST_HELD))
    assert [verdict.host for verdict in pool.settle()] == ["a"]
    pool.end("b", [0])
    pool.end("c", [1])
    pool.settle()
    pool.end("a", [5000], GOOD)
    pool.settle()
    pool.end("b", [5001], GOOD)
    pool.end("a", range(6000, 6000 + MOST_HELD))
    assert [verdict.host for verdict in pool.settle()] == ["a"]


# -- coming and going --------------------------------------------------------------------------------


def test_a_new_worker_is_a_fresh_start() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 1])
    pool.gone("a")
    pool.ready("a", 1)
    pool.end("a", [2])
    assert pool.decide(0.0) == []


def test_with_a_new_worker_a_host_is_innocent_again() -> None:
    pool = Pool(1, 1)
    pool.end("b", [9])
    pool.end("a", [0, 1, 2])
    assert pool.settle() == []
    pool.ready("b", 1)
    assert [verdict.host for verdict in pool.settle()] == ["a"]


def test_a_worker_that_was_taken_up_again_is_none() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0, 1])
    pool.gone("a")
    pool.ready("a", 1, resumed=True)
    pool.end("a", [2])
    assert [verdict.host for verdict in pool.settle()] == ["a"]


@pytest.mark.parametrize("resumed", [True, False])
def test_quarantine_goes_on_over_a_reconnection(resumed: bool) -> None:
    pool = pool_with_a_out()
    pool.gone("a")
    assert pool.wake_at() is None
    assert pool.settle(2 * QUARANTINE) == []
    pool.ready("a", 2, resumed=resumed)
    assert pool.slots("a") == 0
    assert pool.settle(2 * QUARANTINE) == [HostProbed("a")]
    pool.gone("a")
    pool.ready("a", 2, resumed=resumed)
    assert pool.slots("a") == 1


def test_a_host_that_is_away_is_not_probed_when_another_is() -> None:
    pool = Pool(1, 1, 1, 1, 1)
    pool.end("a", [0, 1, 2])
    pool.end("b", [3, 4, 5])
    assert len(pool.settle()) == 2
    pool.gone("a")
    assert pool.settle(QUARANTINE) == [HostProbed("b")]


def test_a_host_that_is_away_is_not_quarantined() -> None:
    pool = Pool(1, 1, 1)
    pool.end("a", [0, 1, 2])
    pool.gone("a")
    assert pool.settle() == []
    assert pool.slots("a") == 0


def test_nothing_is_known_of_a_host_that_never_came() -> None:
    pool = Pool()
    assert pool.slots("a") == 0
    assert pool.standing("a") is Standing.TRUSTED
    before = pool.snapshot()
    pool.gone("a")
    assert pool.snapshot() == before


def test_moved_names_the_hosts_whose_slots_changed() -> None:
    pool = Pool(1, 1)
    assert pool.moved() == {"a", "b"}
    pool.end("a", [0, 1, 2])
    assert pool.moved() == set()
    pool.settle()
    assert pool.moved() == {"a"}
    pool.end("b", [3], REFUSED)
    assert pool.moved() == {"b"}
    pool.settle(REST)
    assert pool.moved() == {"b"}


# -- rests -------------------------------------------------------------------------------------------


def test_a_host_that_refuses_rests_longer_and_longer_without_a_verdict() -> None:
    pool, now, rests = Pool(4), 0.0, []
    for _ in range(6):
        pool.end("a", range(4), REFUSED, now)  # all slots at once are one refusal
        assert pool.slots("a") == 0
        due = pool.wake_at()
        assert due is not None
        rests.append(due - now)
        assert pool.settle(due - 0.001) == []
        assert pool.slots("a") == 0
        now = due
        assert pool.settle(now) == []
        assert pool.slots("a") == 4
    assert rests == [REST, 2 * REST, 4 * REST, 8 * REST, LONGEST_REST, LONGEST_REST]


def test_all_hosts_may_rest_at_once() -> None:
    pool = Pool(1, 1)
    pool.end("a", [0], REFUSED)
    pool.end("b", [1], REFUSED)
    assert pool.all_slots() == [0, 0]


@pytest.mark.parametrize(("during_rest", "expected"), [(False, REST), (True, 2 * REST)])
def test_only_what_ended_after_a_rest_makes_the_next_one_short(during_rest: bool, expected: float) -> None:
    pool = Pool(2)
    pool.end("a", [0], REFUSED)
    if during_rest:
        pool.end("a", [1], GOOD)  # it ran already when the rest began
        pool.settle(REST)
    else:
        pool.settle(REST)
        pool.end("a", [1], BAD)
    pool.end("a", [0], REFUSED, REST)
    assert pool.wake_at() == REST + expected


def test_a_new_worker_ends_the_rest() -> None:
    pool = Pool(2)
    pool.end("a", [0], REFUSED)
    pool.gone("a")
    pool.ready("a", 2)
    assert pool.slots("a") == 2
    assert pool.wake_at() is None


# -- reasons and bounds ------------------------------------------------------------------------------


def test_a_reason_names_a_few_jobs() -> None:
    pool = Pool(12, 1)
    pool.end("a", range(12))
    [verdict] = pool.settle()
    assert isinstance(verdict, HostQuarantined)
    names = "0000, 0001, 0002, 0003, 0004 and 7 more"
    assert verdict.reason == f"failed 12 jobs in a row ({names}), another host none so far"


def test_a_long_row_is_remembered_in_part() -> None:
    pool = Pool(1)
    pool.end("a", range(3 * MOST_HELD))
    pool.ready("b", 1)
    [verdict] = pool.settle()
    assert isinstance(verdict, HostQuarantined)
    assert verdict.jobs == tuple(range(2 * MOST_HELD, 3 * MOST_HELD))


def test_nothing_is_kept_of_jobs_that_succeed() -> None:
    pool = Pool(4, 4)
    pool.ready("c", 4)
    empty = pool.snapshot()
    pool.end("a", range(1000), GOOD)
    for job in range(1000, 2000):
        pool.end("b", [job])
        pool.end("b", [job], GOOD)
    assert pool.snapshot() == empty
    pool.end("a", range(4))
    pool.settle()
    pool.end("b", range(4), GOOD)
    assert [pool.snapshot()[key] for key in ("failed at", "forgiven", "witnesses")] == [{}, {}, {}]


# -- whole runs --------------------------------------------------------------------------------------

Behaviour = Callable[[str, int, float], tuple[float, Outcome]]  # host, job, now: how long and how it ends


class Run:
    """A run of a batch without retries, as the scheduler would lead it, in simulated time.

    A job that is run again goes first, and to a host where it failed only if no other is free. So a host that
    is probed often gets the very job that it had failed.
    """

    def __init__(self, slots: dict[str, int], jobs: int, behaviour: Behaviour) -> None:
        self.quarantine = Quarantine()
        for host, number in slots.items():
            self.quarantine.ready(host, number)
        self.hosts = list(slots)
        self.behaviour = behaviour
        self.waiting = list(range(jobs))
        self.failed: dict[int, str] = {}  # where, of those whose failure counts for now
        self.avoid: dict[int, str] = {}
        self.busy = dict.fromkeys(slots, 0)
        self.ends: list[tuple[float, int, AttemptEnded]] = []
        self.verdicts: list[tuple[float, Verdict]] = []
        self.eaten: list[tuple[float, str]] = []
        self.most_out = 0
        self._order = count()

    def lead(self, until: float) -> float:
        """Go on until everything has ended, or that time is over. Gives the time."""
        now = 0.0
        while now <= until:
            self.decide(now)
            due = self.quarantine.wake_at()
            if not self.ends and (due is None or not self.waiting):
                break
            if self.ends and (due is None or self.ends[0][0] <= due):
                now, _, event = heappop(self.ends)
                self.end(event, now)
            elif due is not None:
                now = max(now, due)
        return now

    def decide(self, now: float) -> None:
        for verdict in self.quarantine.decide(now):
            self.quarantine.apply(verdict, now)
            self.verdicts.append((now, verdict))
            if isinstance(verdict, HostQuarantined):
                for job in verdict.jobs:
                    assert self.failed.pop(job) == verdict.host
                    self.waiting.insert(0, job)
        assert self.quarantine.decide(now) == []
        out = sum(self.quarantine.standing(host) is Standing.QUARANTINED for host in self.hosts)
        self.most_out = max(self.most_out, out)
        while (start := self.next_start()) is not None:
            job, host = start
            del self.waiting[0]
            self.busy[host] += 1
            seconds, outcome = self.behaviour(host, job, now)
            heappush(self.ends, (now + seconds, next(self._order), AttemptEnded(job, 1, host, outcome)))

    def next_start(self) -> tuple[int, str] | None:
        free = [host for host in self.hosts if self.busy[host] < self.quarantine.slots(host)]
        if not free or not self.waiting:
            return None
        job = self.waiting[0]
        return job, min(free, key=lambda host: (host == self.avoid.get(job), self.busy[host]))

    def end(self, event: AttemptEnded, now: float) -> None:
        self.quarantine.ended(event, now)
        self.busy[event.host] -= 1
        if event.outcome.ending is Ending.REFUSED:
            self.waiting.insert(0, event.job)
        elif not event.outcome.succeeded:
            self.eaten.append((now, event.host))
            self.failed[event.job] = self.avoid[event.job] = event.host

    def quarantines(self, host: str) -> list[float]:
        return [
            now
            for now, verdict in self.verdicts
            if isinstance(verdict, HostQuarantined)
            and verdict.host == host
            and "still had" not in verdict.reason
        ]


SLOTS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 6), min_size=2, max_size=7)


@given(SLOTS, st.integers(0, 200), st.floats(0.01, 5.0), st.floats(0.01, 100.0))
@settings(deadline=None)
def test_a_black_hole_eats_a_few_jobs_a_quarantine_and_all_are_forgiven(
    slots: dict[str, int], jobs: int, fails_after: float, takes: float
) -> None:
    hole = min(slots)

    def behaviour(host: str, job: int, now: float) -> tuple[float, Outcome]:
        return (fails_after, BAD) if host == hole else (takes, GOOD)

    run = Run(slots, jobs, behaviour)
    run.lead(until=1e6)
    assert run.waiting == []
    begins = run.quarantines(hole)
    most = max(3, slots[hole]) + slots[hole]
    for begin, end in zip([0.0, *begins], [*begins, 1e9], strict=True):
        assert sum(begin < now <= end for now, _ in run.eaten) <= most
    # At most a last few, too few to show that it was the host, are left when the batch is over.
    assert len(run.failed) < max(3, slots[hole])
    if len(run.eaten) >= max(3, slots[hole]):
        assert not run.failed
    assert {verdict.host for _, verdict in run.verdicts} <= {hole}


@given(SLOTS, st.integers(0, 100), st.lists(st.floats(0.1, 50.0), min_size=1))
@settings(deadline=None)
def test_a_batch_that_fails_everywhere_leaves_half_of_the_hosts_at_work_and_ends(
    slots: dict[str, int], jobs: int, times: list[float]
) -> None:
    run = Run(slots, jobs, lambda host, job, now: (times[job % len(times)], BAD))
    run.lead(until=1e9)
    assert run.most_out <= len(slots) // 2
    assert len(run.failed) == jobs
    probes = sum(isinstance(verdict, HostProbed) for _, verdict in run.verdicts)
    assert len(run.eaten) <= jobs * (1 + MOST_FORGIVEN) + probes


@given(SLOTS, st.floats(0.0, 5000.0))
@settings(deadline=None)
def test_a_host_that_recovers_gets_all_its_slots_back(slots: dict[str, int], recovery: float) -> None:
    sick = min(slots)

    def behaviour(host: str, job: int, now: float) -> tuple[float, Outcome]:
        return (20.0, BAD if host == sick and now < recovery else GOOD)

    run = Run(slots, 2000, behaviour)
    run.lead(until=1e6)
    while (due := run.quarantine.wake_at()) is not None:  # the batch may be over before
        run.decide(due)
    if run.quarantine.standing(sick) is Standing.PROBED:
        run.quarantine.ended(AttemptEnded(9999, 1, sick, GOOD), 1e6)
        run.decide(1e6)
    assert {host: run.quarantine.slots(host) for host in slots} == slots
    assert len(run.failed) < max(3, slots[sick])  # what it failed before its first success, if so few


class Fickle:
    """A batch of which so many jobs fail by themselves, whichever good host runs them."""

    def __init__(self, jobs: int, share: float, seconds: float, seed: int) -> None:
        random = Random(seed)
        self.times = [seconds * random.uniform(0.5, 1.5) for _ in range(jobs)]
        self.bad = [job for job in range(jobs) if random.random() < share]
        self._bad = set(self.bad)

    def __call__(self, host: str, job: int, now: float) -> tuple[float, Outcome]:
        return self.times[job], BAD if job in self._bad else GOOD


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("seconds", [10.0, 60.0, 600.0])
def test_a_batch_of_which_much_fails_by_itself_takes_hardly_longer(
    seconds: float, slots: int, seed: int
) -> None:
    # The mean is 1.03 to 1.06; of other seeds, up to 4 in 100 are above 1.15 where jobs take only 10 seconds.
    batch = Fickle(800 * slots, 0.4, seconds, seed)
    run = Run(dict.fromkeys("abcdefgh", slots), len(batch.times), batch)
    assert run.lead(until=1e9) <= 1.15 * sum(batch.times) / (8 * slots)
    assert sorted(run.failed) == batch.bad


@pytest.mark.parametrize("seed", range(10))
def test_a_black_hole_is_caught_where_much_fails_by_itself(seed: int) -> None:
    batch = Fickle(800, 0.4, 60.0, seed)

    def behaviour(host: str, job: int, now: float) -> tuple[float, Outcome]:
        return (0.5, BAD) if host == "d" else batch(host, job, now)

    run = Run(dict.fromkeys("abcdefgh", 1), 800, behaviour)
    assert run.lead(until=1e9) <= 1.15 * sum(batch.times) / 7
    assert sum(host == "d" for _, host in run.eaten) <= 40
    assert sorted(run.failed) == batch.bad


def test_a_full_home_stops_every_host_and_costs_nothing() -> None:
    def behaviour(host: str, job: int, now: float) -> tuple[float, Outcome]:
        return (0.1, REFUSED) if now < 1000.0 else (1.0, GOOD)

    run = Run({"a": 2, "b": 4}, 50, behaviour)
    run.lead(until=1e6)
    assert (run.waiting, run.failed, run.verdicts) == ([], {}, [])


# -- whatever happens --------------------------------------------------------------------------------

HOSTS = ("a", "b", "c", "d")
Step = Callable[[Quarantine, float], None]


class AnyRun(RuleBasedStateMachine):
    """Anything happens to four hosts, in any order; the promises hold after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.quarantine = Quarantine()
        self.now = 0.0
        self.steps: list[tuple[float, Step]] = []
        self.forgiven: dict[int, tuple[str, ...]] = {}  # on which hosts; a probe with such a job is no more
        self.counts: dict[str, int] = {}  # the slots of the hosts that are there
        self.settled = True

    def happen(self, step: Step) -> None:
        self.settled = False
        self.steps.append((self.now, step))
        step(self.quarantine, self.now)

    @initialize(slots=st.lists(st.integers(1, 4), min_size=1, max_size=4))
    def begin(self, slots: list[int]) -> None:
        for host, number in zip(HOSTS, slots, strict=False):
            self.come(host, number, False)

    @rule(host=st.sampled_from(HOSTS), slots=st.integers(0, 4), resumed=st.booleans())
    def come(self, host: str, slots: int, resumed: bool) -> None:
        self.counts[host] = slots
        self.happen(lambda quarantine, now: quarantine.ready(host, slots, resumed=resumed))

    @rule(host=st.sampled_from(HOSTS))
    def go(self, host: str) -> None:
        self.counts.pop(host, None)
        self.happen(lambda quarantine, now: quarantine.gone(host))

    @rule(host=st.sampled_from(HOSTS), slots=st.integers(0, 4))
    def resize(self, host: str, slots: int) -> None:
        if host in self.counts:
            self.counts[host] = slots
            self.happen(lambda quarantine, now: quarantine.resized(host, slots))

    @rule(
        host=st.sampled_from(HOSTS),
        first=st.integers(0, 20),
        jobs=st.integers(1, 4),
        outcome=st.sampled_from([BAD, BAD, GOOD, TIMEOUT, STOPPED, REFUSED]),
        turn_ends=st.booleans(),
    )
    def attempts_end(self, host: str, first: int, jobs: int, outcome: Outcome, turn_ends: bool) -> None:
        for job in range(first, first + jobs):
            event = AttemptEnded(job, 1, host, outcome)
            self.happen(lambda quarantine, now, event=event: quarantine.ended(event, now))  # type: ignore[misc]
            if outcome is GOOD:
                self.forgiven.pop(job, None)
        if turn_ends:
            self.decide()

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0, 120.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def decide(self) -> None:
        for verdict in self.quarantine.decide(self.now):
            if isinstance(verdict, HostQuarantined):
                assert verdict.reason
                probed = self.quarantine.standing(verdict.host) is Standing.PROBED
                for job in verdict.jobs:
                    before = self.forgiven.get(job, ())
                    if not probed or verdict.host not in before:
                        self.forgiven[job] = (*before, verdict.host)
            self.happen(lambda quarantine, now, verdict=verdict: quarantine.apply(verdict, now))  # type: ignore[misc]
        assert self.quarantine.decide(self.now) == []
        wake_at = self.quarantine.wake_at()
        assert wake_at is None or wake_at > self.now
        self.settled = True

    @invariant()
    def never_more_than_half_are_out(self) -> None:
        if self.settled:
            there = [host for host, slots in self.counts.items() if slots]
            out = [host for host in there if self.quarantine.standing(host) is Standing.QUARANTINED]
            assert len(out) <= len(there) // 2

    @invariant()
    def slots_follow_from_the_standing(self) -> None:
        for host in HOSTS:
            slots = self.quarantine.slots(host)
            most = self.counts.get(host, 0)
            match self.quarantine.standing(host):
                case Standing.TRUSTED:
                    assert slots in (0, most)
                case Standing.PROBED:
                    assert slots in (0, min(most, 1))
                case Standing.QUARANTINED:
                    assert slots == 0

    @invariant()
    def no_job_is_forgiven_too_often(self) -> None:
        assert all(len(hosts) <= MOST_FORGIVEN for hosts in self.forgiven.values())

    @invariant()
    def replay_equals_life(self) -> None:
        for live in (True, False):
            other = Quarantine()
            for now, step in self.steps:
                step(other, now if live else 0.0)
            assert other.snapshot() == self.quarantine.snapshot()


AnyRun.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_the_promises_hold_whatever_happens = AnyRun.TestCase
