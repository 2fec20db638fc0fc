"""When a host is called again, and when a link counts as broken: exact times, no clock and no dice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pisa_fab.contact import MOST_BUSY, PACES, SPREAD, START_TIMEOUT, Contact, Trouble

LEASE = 60.0
AGES = 1000.0  # seconds after which no lease of before runs any more


def called(now: float = 0.0) -> Contact:
    contact = Contact(LEASE)
    contact.called(now)
    return contact


def at_work(now: float = 0.0) -> Contact:
    contact = called(now)
    contact.came(now)
    return contact


def waits(trouble: Trouble, times: int, chance: float = 0.0) -> list[float]:
    """Give the seconds from each of so many failures in a row to the next call, with no lease to save."""
    contact, now, found = Contact(LEASE), AGES, []
    for _ in range(times):
        contact.called(now)
        contact.closed(now, trouble, chance)
        assert contact.call_at is not None
        found.append(contact.call_at - now)
        now = contact.call_at
    return found


# -- calling again -----------------------------------------------------------------------------------


def test_a_host_is_called_at_once_and_then_not_while_the_link_is_up() -> None:
    contact = Contact(LEASE)
    assert contact.is_due(0.0)
    contact.called(0.0)
    assert contact.up
    assert not contact.is_due(AGES)


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (Trouble.BROKEN, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]),
        (Trouble.BUSY, [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]),
        (Trouble.AWAY, [4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
        (Trouble.PERSON, [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]),
    ],
)
def test_calls_get_rarer_up_to_a_limit(trouble: Trouble, expected: list[float]) -> None:
    assert waits(trouble, len(expected)) == pytest.approx(expected)


@pytest.mark.parametrize("trouble", Trouble)
def test_the_wait_is_still_finite_after_a_month_of_calls(trouble: Trouble) -> None:
    assert waits(trouble, 900)[-1] == PACES[trouble].longest


@pytest.mark.parametrize(
    ("chance", "longer"), [(0.0, 1.0), (0.5, 1 + SPREAD / 2), (0.999, 1 + 0.999 * SPREAD)]
)
def test_chance_makes_a_wait_longer_and_nothing_else(chance: float, longer: float) -> None:
    even = waits(Trouble.AWAY, 6)
    assert waits(Trouble.AWAY, 6, chance) == pytest.approx([wait * longer for wait in even])


def test_a_host_is_due_from_the_very_moment_on() -> None:
    contact = called(AGES)
    contact.closed(AGES, Trouble.AWAY, 0.0)
    assert not contact.is_due(AGES + 3.999)
    assert contact.is_due(AGES + 4.0)
    assert contact.wake_at() == AGES + 4.0


def test_coming_to_work_begins_the_count_anew() -> None:
    contact = called(AGES)
    for _ in range(5):
        contact.closed(AGES, Trouble.AWAY, 0.0)
    contact.called(AGES)
    contact.came(AGES)
    assert (contact.tries, contact.trouble, contact.call_at) == (0, None, None)
    contact.closed(2 * AGES, Trouble.AWAY, 0.0)
    assert contact.trouble is Trouble.BROKEN  # it was at work, whatever the link says of its end
    assert contact.call_at == 2 * AGES + 0.2


def test_a_host_that_is_dismissed_is_never_called_again() -> None:
    contact = called()
    contact.closed(AGES, Trouble.AWAY, 0.0)
    contact.dismiss()
    assert not contact.is_due(10 * AGES)
    assert contact.wake_at() is None


# -- a worker to save --------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [Trouble.BROKEN, Trouble.BUSY, Trouble.AWAY])
def test_while_a_lease_runs_the_host_is_called_often(trouble: Trouble) -> None:
    contact, now = at_work(AGES), AGES + 1.0
    contact.closed(now, Trouble.BROKEN, 0.0)
    calls = 0
    while (now := contact.call_at or 0.0) < AGES + LEASE:
        calls += 1
        contact.called(now)
        contact.closed(now, trouble, 0.999)
        assert contact.call_at is not None
        assert contact.call_at - now <= LEASE / 8 * (1 + SPREAD)
    assert calls > 4


def test_when_the_lease_is_over_it_is_called_as_any_other() -> None:
    contact = at_work(AGES)
    contact.closed(AGES, Trouble.BROKEN, 0.0)
    for _ in range(9):
        contact.called(AGES)
        contact.closed(AGES + LEASE, Trouble.AWAY, 0.0)
    assert contact.call_at == AGES + LEASE + PACES[Trouble.AWAY].longest


def test_a_lease_does_not_hurry_what_only_a_person_can_mend() -> None:
    contact = at_work(AGES)
    contact.closed(AGES + 1.0, Trouble.BROKEN, 0.0)
    contact.called(AGES + 2.0)
    contact.closed(AGES + 2.0, Trouble.PERSON, 0.0)
    assert contact.call_at == AGES + 2.0 + 60.0


# -- silence -----------------------------------------------------------------------------------------


def test_a_worker_that_says_nothing_for_half_a_lease_is_given_up() -> None:
    contact = at_work(AGES)
    assert contact.wake_at() == AGES + 30.0
    assert contact.problem(AGES + 30.0) == ""
    assert contact.problem(AGES + 30.1) == "nothing heard for 30 s"


def test_every_word_counts_against_silence_but_only_an_answered_ping_for_the_lease() -> None:
    contact = at_work(AGES)
    contact.heard(AGES + 20.0)
    assert contact.problem(AGES + 50.0) == ""
    assert (contact.silent_at, contact.answered_at) == (AGES + 50.0, AGES)
    contact.heard(AGES + 40.0)
    contact.answered(AGES + 40.0)
    assert (contact.silent_at, contact.answered_at) == (AGES + 70.0, AGES + 40.0)


def test_what_was_answered_last_is_known_after_the_end_until_a_worker_comes() -> None:
    contact = at_work(AGES)
    contact.answered(AGES + 5.0)
    contact.closed(AGES + 9.0, Trouble.BROKEN, 0.0)
    contact.called(AGES + 10.0)
    assert contact.answered_at == AGES + 5.0
    contact.came(AGES + 11.0)
    assert contact.answered_at == AGES + 11.0


# -- starting ----------------------------------------------------------------------------------------


def test_a_call_that_is_not_answered_is_given_up() -> None:
    contact = called(AGES)
    assert contact.wake_at() == AGES + START_TIMEOUT
    assert contact.problem(AGES + START_TIMEOUT) == ""
    assert contact.problem(AGES + START_TIMEOUT + 0.1) == "no answer within 60 s; its home may hang"


@pytest.mark.parametrize("make", [Contact, at_work])
def test_neither_a_host_at_work_nor_one_that_was_not_called_is_late(make: Callable[[float], Contact]) -> None:
    contact = make(LEASE)
    contact.heard(AGES)
    assert contact.problem(AGES + 1.0) == ""


@pytest.mark.parametrize("trouble", [Trouble.BROKEN, Trouble.AWAY, Trouble.PERSON])
def test_a_host_has_failed_after_one_call(trouble: Trouble) -> None:
    contact = Contact(LEASE)
    assert not contact.has_failed
    contact.called(AGES)
    assert not contact.has_failed
    contact.closed(AGES, trouble, 0.0)
    assert contact.has_failed
    contact.called(AGES)
    assert not contact.has_failed  # it is being called


def test_a_host_that_refuses_is_busy_and_has_failed_only_after_many_calls() -> None:
    contact = Contact(LEASE)
    for _ in range(MOST_BUSY - 1):
        contact.called(AGES)
        contact.closed(AGES, Trouble.BUSY, 0.0)
        assert not contact.has_failed
    contact.called(AGES)
    contact.closed(AGES, Trouble.BUSY, 0.0)
    assert contact.has_failed
