"""What a calendar allows as the head acts upon it: against the calendar, moment by moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from math import inf
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisa_fab.allowance import (
    EARLY,
    PHASES,
    Horizon,
    allowed,
    change_after,
    horizon,
    least_nice,
    phases,
)
from pisa_fab.bounds import Bounds
from pisa_fab.calendar import Window
from pisa_fab.model import AtEdge, Host

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0
NICE = 19


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


windows_of_a_host = st.lists(
    st.builds(
        Window,
        begin=st.integers(0, 47).map(lambda half: half * 30),
        end=st.integers(0, 48).map(lambda half: half * 30),
        weekdays=st.frozensets(st.integers(0, 6), min_size=1),
        slots=st.integers(0, 4),
        nice=st.none() | st.integers(0, 19),
    ),
    max_size=3,
).map(tuple)
some_host = st.builds(
    Host,
    name=st.just("pc01"),
    slots=st.integers(0, 4),
    windows=windows_of_a_host,
    zone=st.just(BERLIN),
    at_edge=st.sampled_from(AtEdge),
)
# Around the nights in which the clocks are set; near the edges, which are at every half hour.
moments = st.builds(
    lambda day, half, seconds: day + half * 30 * MINUTE + seconds,
    st.sampled_from([unix("2026-10-23"), unix("2026-03-27"), unix("2026-06-01")]),
    st.integers(0, 7 * 48),
    st.sampled_from([0.0, 1.0, 600.0]) | st.floats(-2 * EARLY, EARLY),
)


def candidates(time: float, until: float) -> list[float]:
    """Give every moment in a time at which anything can change: minutes, and a moment before them."""
    first = int(time // MINUTE)
    minutes = [number * MINUTE for number in range(first, int(until // MINUTE) + 2)]
    return sorted(
        moment for minute in minutes for moment in (minute - EARLY, minute) if time < moment <= until
    )


@given(some_host, moments)
def test_no_more_is_allowed_than_the_calendar_says_now_and_in_a_moment(host: Host, time: float) -> None:
    calendar = host.calendar
    now, soon = calendar.at(time), calendar.at(time + EARLY)
    found = allowed(host, time)
    assert found.slots == min(now.slots, soon.slots)
    assert found in (now, soon)


@settings(max_examples=40)
@given(some_host, moments)
def test_the_next_change_is_the_first_one(host: Host, time: float) -> None:
    before = allowed(host, time)
    found = change_after(host, time)
    until = time + DAY if found is None else min(time + DAY, found)
    for moment in candidates(time, until):
        assert (allowed(host, moment) != before) == (moment == found)
    assert found is None or found > time


@settings(max_examples=40)
@given(some_host, moments)
def test_a_worker_that_is_told_the_phases_knows_what_is_allowed(host: Host, time: float) -> None:
    told = phases(host, time, NICE)
    assert told[0][0] == 0
    assert len(told) <= PHASES + 1
    bounds = Bounds(5.0, told, "pause")
    last = change_after(host, time + told[-1][0])
    until = time + DAY if last is None else min(time + DAY, last - 1.0)
    if len(told) <= PHASES:
        assert last is None
    for moment in [time, *candidates(time, until)]:
        now = allowed(host, moment)
        nice = NICE if now.nice is None else now.nice
        # Half a second later, because what is added and taken away again is not quite the same number.
        assert bounds.at(5.0 + moment - time + 0.5) == (now.slots, nice)


@settings(max_examples=40)
@given(some_host, moments)
def test_a_horizon_holds_every_fall_below_all_before(host: Host, time: float) -> None:
    calendar = host.calendar
    expected, lowest = [], calendar.at(time).slots
    minute = (time // MINUTE + 1) * MINUTE
    while minute < time + 8 * DAY and lowest:
        if calendar.at(minute).slots < lowest:
            lowest = calendar.at(minute).slots
            expected.append((minute - EARLY, lowest))
        minute += 30 * MINUTE if minute % (30 * MINUTE) == 0 else MINUTE
    assert horizon(host, time).falls == tuple(expected)


@settings(max_examples=40)
@given(some_host, moments)
def test_a_job_that_would_be_paused_anyway_is_one_longer_than_every_open_time(
    host: Host, time: float
) -> None:
    found = horizon(host, time)
    if host.at_edge is not AtEdge.PAUSE or not found.falls:
        assert found.longest == inf
        return
    longest = run = 0.0
    moment, step = time, 0.0
    while moment < time + 8 * DAY or run:
        step = (moment // (30 * MINUTE) + 1) * 30 * MINUTE - moment
        run = run + step if host.calendar.at(moment).slots else 0.0
        longest = max(longest, run)
        moment += step
        if run > 20 * DAY:
            longest = inf
            break
    assert found.longest == pytest.approx(longest - EARLY)


def test_jobs_make_room_before_a_window_closes_and_wait_until_it_opens() -> None:
    night = Window(begin=22 * 60, end=6 * 60 + 30, slots=12, nice=10)
    host = Host("pc01", 3, windows=(night,), zone=BERLIN)
    opens, closes = unix("2026-10-24 22:00"), unix("2026-10-25 06:30")
    assert closes - opens == 9.5 * HOUR
    assert allowed(host, opens - 1).slots == 3
    assert allowed(host, opens).slots == 12
    assert change_after(host, opens) == closes - EARLY
    assert allowed(host, closes - EARLY).slots == 3
    assert allowed(host, closes - EARLY - 0.001).slots == 12
    assert phases(host, opens - HOUR, NICE)[:3] == [
        (0.0, 3, NICE),
        (HOUR, 12, 10),
        (10.5 * HOUR - EARLY, 3, NICE),
    ]
    assert horizon(host, opens) == Horizon(((closes - EARLY, 3),), inf)
    assert horizon(host, opens - 1) == Horizon()


def test_without_windows_nothing_ever_changes() -> None:
    host = Host("pc01", 2)
    assert change_after(host, 0.0) is None
    assert phases(host, 0.0, NICE) == [(0.0, 2, NICE)]
    assert horizon(host, 0.0) == Horizon()


def test_a_horizon_can_be_put_on_another_clock() -> None:
    assert Horizon(((100.0, 2), (200.0, 0)), 50.0).shifted(-90.0) == Horizon(((10.0, 2), (110.0, 0)), 50.0)


def test_a_worker_is_as_nice_as_its_least_nice_window() -> None:
    host = Host("pc01", 2, windows=(Window(nice=15, slots=1), Window(nice=5), Window(slots=0)))
    assert least_nice(host, NICE) == 5
    assert least_nice(replace(host, nice=3), NICE) == 3
    assert least_nice(replace(host, windows=()), NICE) == NICE
