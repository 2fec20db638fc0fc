"""Will it fit: ends against a pool that works minute by minute, verdicts that come true, warnings in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from math import inf
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.calendar import EVERY_DAY, Calendar, Window
from pisa_fab.forecast import Work
from pisa_fab.outlook import Alarm, Verdict, clock, finish, hours, stretch, too_long, verdict

HOUR, DAY = 3600.0, 86400.0
MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()  # a Monday at noon
BERLIN = ZoneInfo("Europe/Berlin")


def window(begin: str, end: str, slots: int, weekdays: frozenset[int] = EVERY_DAY) -> Window:
    at = [int(text[:2]) * 60 + int(text[3:]) for text in (begin, end)]
    return Window(at[0], at[1], weekdays=weekdays, slots=slots)


def at_night(slots: int, by_day: int = 0) -> Calendar:
    """Open from 22:00 to 06:00."""
    return Calendar(by_day, None, (window("22:00", "06:00", slots),), UTC)


# --- the end of the work ---

WINDOWS = st.builds(
    Window,
    begin=st.integers(0, 23).map(lambda hour: hour * 60),
    end=st.integers(1, 24).map(lambda hour: hour * 60),
    weekdays=st.frozensets(st.integers(0, 6), min_size=1),
    slots=st.integers(0, 4),
)
CALENDARS = st.builds(
    Calendar,
    slots=st.integers(0, 3),
    nice=st.none(),
    windows=st.lists(WINDOWS, max_size=2).map(tuple),
    zone=st.just(UTC),
)


def end_hour_by_hour(work: float, calendars: Sequence[Calendar], days: int) -> float | None:
    """Let every open slot work for an hour, and then for the next."""
    for hour in range(days * 24):
        begin = MONDAY + hour * HOUR
        slots = sum(calendar.at(begin).slots for calendar in calendars)
        if slots * HOUR >= work:
            return begin + work / slots if slots else begin
        work -= slots * HOUR
    return None


def one_hour_by_hour(longest: int, calendar: Calendar, over_edges: bool, days: int) -> float | None:
    """Look for the first hours in a row that are enough for a job; else let it stand still between them."""
    is_open = [calendar.at(MONDAY + hour * HOUR).slots > 0 for hour in range(days * 24)]
    for begin in range(len(is_open) - longest + 1):
        if all(is_open[begin : begin + longest]):
            return MONDAY + (begin + longest) * HOUR
    hours_open = [hour for hour, opened in enumerate(is_open) if opened]
    if over_edges and len(hours_open) >= longest:
        return MONDAY + (hours_open[longest - 1] + 1) * HOUR
    return None


@given(st.lists(CALENDARS, min_size=1, max_size=4), st.integers(1, 300))
def test_work_is_done_when_a_pool_that_works_hour_by_hour_is_done(
    calendars: list[Calendar], work: int
) -> None:
    expected = end_hour_by_hour(work * HOUR, calendars, 28)
    found = finish(work * HOUR, 0.0, calendars, MONDAY)
    if expected is not None:
        assert found == pytest.approx(expected, abs=1.0)
    else:
        assert found is None or found > MONDAY + 28 * DAY - 1


@given(CALENDARS, st.integers(1, 30), st.booleans())
def test_one_job_is_done_after_the_first_time_that_is_long_enough(
    calendar: Calendar, longest: int, over_edges: bool
) -> None:
    expected = one_hour_by_hour(longest, calendar, over_edges, 14)
    found = finish(0.0, longest * HOUR, [calendar], MONDAY, over_edges=over_edges)
    if expected is not None:
        assert found == expected
    else:
        assert found is None or found > MONDAY + 14 * DAY


@given(CALENDARS)
def test_the_longest_stretch_is_the_most_hours_in_a_row(calendar: Calendar) -> None:
    longest = row = 0
    for hour in range(8 * 24 + 7 * 24):  # one that begins within 8 days counts to its end
        row = row + 1 if calendar.at(MONDAY + hour * HOUR).slots else 0
        if hour - row < 8 * 24:
            longest = max(longest, row)
    found = stretch(calendar, MONDAY, 8 * DAY)
    assert found == inf if longest == 15 * 24 else found == longest * HOUR


def test_slots_that_stay_by_day_make_a_stretch_without_end() -> None:
    assert stretch(at_night(12, by_day=3), MONDAY, 8 * DAY) == inf
    assert stretch(at_night(12), MONDAY, 8 * DAY) == 8 * HOUR
    assert stretch(Calendar(0), MONDAY, 8 * DAY) == 0.0


def test_no_work_is_done_at_once_and_no_slots_never_do_any() -> None:
    assert finish(0.0, 0.0, [at_night(1)], MONDAY) == MONDAY
    assert finish(1.0, 1.0, [Calendar(0)], MONDAY) is None
    assert finish(1.0, 1.0, [], MONDAY) is None


def test_only_a_window_in_some_months_is_waited_for() -> None:
    day = datetime(2027, 3, 1, tzinfo=UTC)
    later = Window(dates=((day.date(), day.date()),), slots=2)
    assert finish(7200.0, 3600.0, [Calendar(0, None, (later,), UTC)], MONDAY) == day.timestamp() + 3600


def test_work_for_years_is_estimated_from_the_mean() -> None:
    found = finish(8 * HOUR * 365 * 5, 60.0, [at_night(1)], MONDAY)
    assert found is not None
    assert found == pytest.approx(MONDAY + 5 * 365 * DAY, rel=0.01)


def test_a_job_longer_than_any_window_goes_on_in_the_next_or_never_ends() -> None:
    night = at_night(4)
    assert finish(20 * HOUR, 20 * HOUR, [night], MONDAY) == MONDAY + 10 * HOUR + 2 * DAY + 4 * HOUR
    assert finish(20 * HOUR, 20 * HOUR, [night], MONDAY, over_edges=False) is None


def test_a_thousand_hosts_are_no_more_work_than_one() -> None:
    class Counting(Calendar):
        asked = count()

        def change_after(self, time: float) -> float | None:
            next(self.asked)
            return super().change_after(time)

    one = Counting(0, None, (window("22:00", "06:00", 4),), UTC)
    finish(1000 * 40 * HOUR, HOUR, [one] * 1000, MONDAY)
    assert next(Counting.asked) < 100


# --- verdicts ---

OPEN = Calendar(2)


def work(seconds: float, longest: float = 60.0, jobs: int = 100) -> Work:
    return Work(seconds, longest, jobs)


def test_what_fits_is_said_in_one_line() -> None:
    found = verdict(work(2 * HOUR), MONDAY + 2 * HOUR, [OPEN], MONDAY)
    assert found.fits
    assert found.lines(UTC) == ["done about Mon 2026-11-23 13:00, before the deadline Mon 2026-11-23 14:00"]
    assert found.refusal(UTC) is None


def test_what_does_not_fit_says_what_would_make_it_fit() -> None:
    found = verdict(work(40 * HOUR), MONDAY + 10 * HOUR, [OPEN], MONDAY)
    assert not found.fits
    assert found.lines(BERLIN) == [
        "the deadline Mon 2026-11-23 23:00 is missed: done about Tue 2026-11-24 09:00",
        "it fits with 2 more slots a host, 1 more host, or deadline: 2026-11-24 10:00",
        "as it is, about 50 of 100 jobs are done in time",
    ]
    refusal = found.refusal(BERLIN)
    assert refusal is not None
    assert refusal.exit_code == 2
    assert refusal.message == found.lines(BERLIN)[0]
    assert refusal.hint.endswith("; leave deadline out to run it all the same")


def test_proposals_that_are_too_much_for_a_line_take_two() -> None:
    lines = verdict(work(900_000 * HOUR), MONDAY + 20 * HOUR, [OPEN] * 5000, MONDAY).lines(UTC)
    assert lines[1:3] == [
        "it fits with 7 more slots a host or 17500 more hosts",
        "or with deadline: 2026-11-27 10:30",
    ]


PROBLEMS = st.tuples(
    st.lists(CALENDARS, min_size=1, max_size=4), st.integers(1, 400), st.integers(1, 8), st.integers(1, 96)
)


@given(PROBLEMS)
def test_every_proposal_makes_it_fit_and_less_would_not(
    problem: tuple[list[Calendar], int, int, int],
) -> None:
    calendars, amount, longest, ahead = problem
    todo, deadline = work(amount * HOUR, longest * HOUR), MONDAY + ahead * HOUR
    found = verdict(todo, deadline, calendars, MONDAY)
    if found.later is not None:
        assert verdict(todo, found.later, calendars, MONDAY).fits
    if found.more_slots is not None:
        for more, fits in ((found.more_slots, True), (found.more_slots - 1, False)):
            richer = [with_slots(calendar, more) for calendar in calendars]
            assert verdict(todo, deadline, richer, MONDAY).fits is fits
    if found.more_hosts is not None and len(set(calendars)) == 1:
        more_hosts = [*calendars, *calendars[:1] * found.more_hosts]
        assert verdict(todo, deadline, more_hosts, MONDAY).fits
        assert not verdict(todo, deadline, more_hosts[:-1], MONDAY).fits
    if not found.fits and found.alone is None:
        part = amount * HOUR * found.in_time / found.jobs
        assert verdict(work(part, longest * HOUR), deadline, calendars, MONDAY).fits


def with_slots(calendar: Calendar, more: int) -> Calendar:
    """Give so many slots more whenever there are any."""
    windows = tuple(replace(w, slots=w.slots + more if w.slots else w.slots) for w in calendar.windows)
    return replace(calendar, slots=calendar.slots + more if calendar.slots else 0, windows=windows)


@given(PROBLEMS)
def test_the_lines_are_few_and_short(problem: tuple[list[Calendar], int, int, int]) -> None:
    calendars, amount, longest, ahead = problem
    lines = verdict(work(amount * HOUR, longest * HOUR), MONDAY + ahead * HOUR, calendars, MONDAY).lines(UTC)
    assert 1 <= len(lines) <= 4
    assert all(len(line) <= 80 for line in lines)


def test_a_job_that_is_too_long_is_named_as_the_reason() -> None:
    found = verdict(work(10 * HOUR, 9 * HOUR), MONDAY + 8 * HOUR, [OPEN] * 5, MONDAY)
    assert (found.more_slots, found.more_hosts, found.alone) == (None, None, 9 * HOUR)
    assert found.lines(UTC)[1] == "one job takes up to 9 h, which does not fit before it"


def test_a_closed_pool_is_named_as_the_reason() -> None:
    found = verdict(work(10 * HOUR), MONDAY + 8 * HOUR, [at_night(4)], MONDAY)
    assert found.lines(UTC)[1] == "no slot of the pool is open before it"
    never = verdict(work(10 * HOUR), MONDAY + 8 * HOUR, [Calendar(0)], MONDAY)
    assert never.lines(UTC)[0] == "the deadline Mon 2026-11-23 20:00 is missed: it is never done"


def test_a_deadline_that_has_passed_is_refused_while_there_are_jobs() -> None:
    late = verdict(work(1.0), MONDAY, [OPEN], MONDAY)
    refusal = late.refusal(UTC)
    assert refusal is not None
    assert refusal.message == "the deadline Mon 2026-11-23 12:00 has passed"
    assert refusal.hint == "write a later one, or leave it out"
    assert verdict(Work(0.0, 0.0, 0), MONDAY, [OPEN], MONDAY).refusal(UTC) is None


def test_a_job_for_which_no_window_is_long_enough_is_told_at_the_start() -> None:
    assert too_long(20 * HOUR, [at_night(4)] * 3, MONDAY, 8 * DAY) == (
        "a job takes up to 20 h, but no window of the pool is longer than 8 h"
    )
    assert too_long(20 * HOUR, [at_night(4), OPEN], MONDAY, 8 * DAY) == ""
    assert too_long(60.0, [Calendar(0)], MONDAY, 8 * DAY) == "no slot of the pool is open in the next 8 d"


def test_times_are_shown_on_the_clock_of_a_zone() -> None:
    assert clock(MONDAY, BERLIN) == "Mon 2026-11-23 13:00"
    assert [hours(s) for s in (0.5, 40, 1500, 72000, 300000)] == ["0.5 s", "40 s", "25 min", "20 h", "3.47 d"]


# --- warnings ---


def told(alarm: Alarm, verdicts: Sequence[Verdict], learned: int = 100, given: bool = False) -> list[float]:
    """Give the times, in minutes after noon, at which something is said."""
    return [(one.now - MONDAY) / 60 for one in verdicts if alarm.look(one, UTC, learned, given=given)]


def minutes(late: Sequence[float], deadline: float = 10 * HOUR) -> list[Verdict]:
    """Make a verdict for each minute, with an end that is so many hours after the deadline."""
    at = MONDAY + deadline
    return [
        Verdict(at, MONDAY + 60 * i, at + hours_late * HOUR, 100, 50) for i, hours_late in enumerate(late)
    ]


def test_a_deadline_that_will_be_missed_is_told_once_and_soon() -> None:
    assert told(Alarm(), minutes([3.0] * 200)) == [2.0]


def test_a_forecast_that_wavers_says_nothing() -> None:
    assert told(Alarm(), minutes([3.0, -1.0] * 100)) == []
    assert told(Alarm(), minutes([0.2, -0.2, 0.4] * 100)) == []


def test_thin_data_warn_nobody_unless_the_jobs_file_says_how_long_jobs_take() -> None:
    assert told(Alarm(), minutes([3.0] * 100), learned=5) == []
    assert told(Alarm(), minutes([3.0] * 100), learned=5, given=True) == [2.0]


def test_a_warning_is_taken_back_and_given_again() -> None:
    late, well = [3.0] * 10, [-3.0] * 10
    assert told(Alarm(), minutes([*well, *late, *well, *late])) == [12.0, 22.0, 32.0]


def test_a_warning_is_repeated_when_it_gets_much_worse_but_not_often() -> None:
    worse = [3.0 + minute / 10 for minute in range(150)]
    assert told(Alarm(), minutes(worse)) == [2.0, 62.0, 122.0]


def test_it_is_said_once_when_the_deadline_passes() -> None:
    alarm = Alarm()
    passing = minutes([1.0] * 10, deadline=300.0)
    assert told(alarm, passing)[-1] == 5.0
    assert alarm.look(passing[-1], UTC, 100) == []
