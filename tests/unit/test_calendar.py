"""The calendar against one that looks at every minute, over days on which clocks change."""

from __future__ import annotations

import time as clocks
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisa_fab.calendar import DAY, EVERY_DAY, Allowance, Calendar, Window, describe
from pisa_fab.model import Host

CALM = settings(deadline=None)  # a busy machine is no failure
BERLIN = ZoneInfo("Europe/Berlin")

# Zones, and days around which something happens to their clocks.
SCENES: list[tuple[tzinfo, date]] = [
    (BERLIN, date(2026, 3, 29)),
    (BERLIN, date(2026, 10, 25)),
    (ZoneInfo("America/New_York"), date(2026, 3, 8)),
    (ZoneInfo("America/New_York"), date(2026, 11, 1)),
    (ZoneInfo("Australia/Lord_Howe"), date(2026, 4, 5)),  # by half an hour
    (ZoneInfo("Australia/Lord_Howe"), date(2026, 10, 4)),
    (ZoneInfo("America/Havana"), date(2026, 11, 1)),  # from 1:00 to midnight
    (ZoneInfo("America/Sao_Paulo"), date(2018, 2, 18)),  # from midnight to the day before
    (ZoneInfo("America/Sao_Paulo"), date(2018, 11, 4)),  # has no midnight
    (ZoneInfo("Pacific/Apia"), date(2011, 12, 30)),  # has no such day
    (ZoneInfo("Pacific/Kwajalein"), date(1993, 8, 21)),  # nor has this one, but with another offset
    (ZoneInfo("Antarctica/Troll"), date(2026, 3, 29)),  # by two hours
    (UTC, date(2026, 12, 31)),
    (timezone(timedelta(hours=5, minutes=45)), date(2028, 2, 29)),
]


# --- the model: every minute for itself, asked of the wall clock ---


def brute(calendar: Calendar, time: float) -> Allowance:
    """Say what holds, from the words of the documentation and with the date and time that people see."""
    wall = datetime.fromtimestamp(time, calendar.zone)
    minute = wall.hour * 60 + wall.minute
    slots, nice, deciding = calendar.slots, calendar.nice, None
    for index, window in enumerate(calendar.windows):
        today, yesterday = wall.date(), wall.date() - timedelta(days=1)
        if window.begin == window.end:
            inside = begins(window, today)
        elif window.begin < window.end:
            inside = window.begin <= minute < window.end and begins(window, today)
        else:
            inside = (minute >= window.begin and begins(window, today)) or (
                minute < window.end and begins(window, yesterday)
            )
        if inside and window.slots is not None:
            slots, deciding = window.slots, index
        if inside and window.nice is not None:
            nice = window.nice
    return Allowance(slots, nice, deciding)


def begins(window: Window, day: date) -> bool:
    return day.weekday() in window.weekdays and (
        not window.dates or any(first <= day <= last for first, last in window.dates)
    )


class Minutes:
    """What holds in each of many minutes, from a whole one on."""

    def __init__(self, calendar: Calendar, begin: int, number: int) -> None:
        self.begin = begin
        self.all = [brute(calendar, begin + 60 * index) for index in range(number)]

    def change_after(self, time: float) -> float | None:
        first = int(time - self.begin) // 60
        now = self.all[first]
        for index in range(first + 1, len(self.all)):
            if self.all[index] != now:
                return float(self.begin + 60 * index)
        return None

    def falls(self, time: float, horizon: float) -> tuple[tuple[float, int], ...]:
        first = int(time - self.begin) // 60
        lowest, found = self.all[first].slots, []
        for index in range(first + 1, len(self.all)):
            at = float(self.begin + 60 * index)
            if at < time + horizon and self.all[index].slots < lowest:
                lowest = self.all[index].slots
                found.append((at, lowest))
        return tuple(found)

    def seconds(self, begin: float, end: float) -> float:
        total = 0.0
        for index, allowance in enumerate(self.all):
            start = self.begin + 60 * index
            total += allowance.slots * max(0.0, min(end, start + 60) - max(begin, start))
        return total


# --- calendars for it ---


@st.composite
def windows(draw: st.DrawFn, around: date) -> Window:
    edges = st.one_of(
        st.sampled_from([0, 60, 90, 119, 120, 150, 180, 390, 720, 1320, 1380, 1439, 1440]),
        st.integers(0, 1440),
    )
    days = st.integers(-4, 4).map(lambda days: around + timedelta(days=days))
    ranges = st.tuples(days, days).map(lambda two: (min(two), max(two)))
    slots = draw(st.none() | st.integers(0, 4))
    return Window(
        draw(edges),
        draw(edges),
        draw(st.just(EVERY_DAY) | st.frozensets(st.integers(0, 6), min_size=1)),
        tuple(draw(st.just([]) | st.lists(ranges, max_size=2))),
        slots,
        draw(st.integers(0, 3) if slots is None else st.none() | st.integers(0, 3)),
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Calendar, int]:
    """Give a calendar, and a midnight of UTC two days before something happens to its zone."""
    zone, day = draw(st.sampled_from(SCENES))
    some = draw(st.lists(windows(day), max_size=4))
    calendar = Calendar(draw(st.integers(0, 4)), draw(st.none() | st.integers(0, 3)), tuple(some), zone)
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    return calendar, int(begin.timestamp())


SHORT = 4 * 1440  # minutes


@settings(CALM, max_examples=40)
@given(scenes(), st.floats(0, 59.99))
def test_every_minute_allows_what_its_wall_clock_says(scene: tuple[Calendar, int], later: float) -> None:
    calendar, begin = scene
    for minute in range(SHORT):
        time = begin + 60 * minute
        expected = brute(calendar, time)
        assert calendar.at(time) == expected
        assert calendar.at(time + later) == expected


@settings(CALM, max_examples=40)
@given(scenes(), st.lists(st.floats(0, 3 * DAY) | st.integers(0, SHORT - 1440).map(lambda m: m * 60.0)))
def test_the_changes_are_those_of_the_minutes(scene: tuple[Calendar, int], starts: list[float]) -> None:
    calendar, begin = scene
    minutes = Minutes(calendar, begin, SHORT)
    for start in starts:
        change = calendar.change_after(begin + start)
        expected = minutes.change_after(begin + start)
        if expected is None:
            assert change is None or change >= begin + SHORT * 60
        else:
            assert change == expected


@settings(CALM, max_examples=40)
@given(scenes())
def test_from_change_to_change_no_minute_is_left_out(scene: tuple[Calendar, int]) -> None:
    calendar, begin = scene
    minutes = Minutes(calendar, begin, SHORT)
    time, found = float(begin), []
    while (change := calendar.change_after(time)) is not None and change < begin + SHORT * 60:
        assert change > time
        time = change
        found.append((change, calendar.at(change)))
    before, expected = minutes.all[0], []
    for index, allowance in enumerate(minutes.all):
        if allowance != before:
            expected.append((float(begin + 60 * index), allowance))
            before = allowance
    assert found == expected


@settings(CALM, max_examples=40)
@given(scenes(), st.floats(0, DAY), st.floats(0, 3 * DAY) | st.integers(0, 4000).map(lambda m: m * 60.0))
def test_the_slots_fall_as_the_minutes_do(scene: tuple[Calendar, int], start: float, ahead: float) -> None:
    calendar, begin = scene
    minutes = Minutes(calendar, begin, SHORT)
    assert calendar.falls(begin + start, ahead) == minutes.falls(begin + start, ahead)


@settings(CALM, max_examples=40)
@given(scenes(), st.floats(0, 4 * DAY), st.floats(0, 4 * DAY))
def test_the_slot_seconds_are_the_sum_over_the_minutes(
    scene: tuple[Calendar, int], one: float, other: float
) -> None:
    calendar, begin = scene
    first, last = begin + min(one, other), begin + max(one, other)
    expected = Minutes(calendar, begin, SHORT).seconds(first, last)
    assert calendar.seconds(first, last) == pytest.approx(expected, abs=1e-3)
    assert calendar.seconds(last, first) == (0 if last > first else expected)


# --- far ahead ---


@st.composite
def yearly(draw: st.DrawFn) -> Calendar:
    """Give a calendar whose windows have dates within two years."""
    zone, _ = draw(st.sampled_from(SCENES[:8]))
    start = date(2026, 1, 1)
    some = []
    for _ in range(draw(st.integers(1, 3))):
        first = start + timedelta(days=draw(st.integers(0, 700)))
        dates = ((first, first + timedelta(days=draw(st.integers(0, 40)))),) if draw(st.booleans()) else ()
        begin, end = draw(st.sampled_from([(0, 1440), (1320, 390), (480, 1080)]))
        weekdays = draw(st.sampled_from([EVERY_DAY, frozenset({0}), frozenset({5, 6})]))
        some.append(Window(begin, end, weekdays, dates, draw(st.integers(0, 2))))
    return Calendar(draw(st.integers(0, 2)), None, tuple(some), zone)


@settings(CALM, max_examples=25)
@given(yearly(), st.integers(0, 400))
def test_what_is_years_ahead_is_found(calendar: Calendar, days: int) -> None:
    begin = int(datetime(2026, 1, 1, 12, 30, tzinfo=UTC).timestamp()) + days * DAY
    # Nothing here begins but at half hours, so half hours are looked at.
    now = brute(calendar, begin)
    later = (begin + 1800 * index for index in range(1, 48 * (760 - days)))
    expected = next((time for time in later if brute(calendar, time) != now), None)
    assert calendar.change_after(begin) == expected


def test_a_week_that_lacks_a_day_does_not_hide_what_comes_every_week() -> None:
    fridays = Calendar(1, None, (Window(weekdays=frozenset({4}), slots=5),), ZoneInfo("Pacific/Apia"))
    saturday = datetime(2011, 12, 24, tzinfo=fridays.zone)
    after = fridays.change_after(saturday.timestamp())
    assert after == datetime(2012, 1, 6, tzinfo=fridays.zone).timestamp()


@pytest.mark.parametrize(
    "some",
    [
        (),
        (Window(slots=3),),
        (Window(slots=1), Window(60, 120, slots=3), Window(slots=2)),
        (Window(dates=((date(2020, 1, 1), date(2020, 2, 1)),), slots=0),),
        (Window(60, 60, slots=5),),
        (Window(weekdays=frozenset(), slots=5),),
        (Window(1440, 0, slots=5),),
    ],
)
def test_what_never_changes_has_no_change(some: tuple[Window, ...]) -> None:
    calendar = Calendar(3, None, some, BERLIN)
    time = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    assert calendar.change_after(time) is None
    assert calendar.falls(time) == ()


def test_the_last_day_that_dates_have_is_no_error() -> None:
    ever = Window(dates=((date.min, date.max),), slots=5)
    last = Window(dates=((date.max, date.max),), slots=7)
    time = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    for zone in (BERLIN, ZoneInfo("Pacific/Apia"), ZoneInfo("America/New_York")):
        calendar = Calendar(1, None, (ever, last), zone)
        assert calendar.at(time).slots == 5
        assert calendar.change_after(time) is None  # it is as if time had no end
        assert calendar.seconds(time, time + 3600) == 5 * 3600


@pytest.mark.parametrize("zone", [zone for zone, _ in SCENES[:8]], ids=str)
def test_a_change_that_is_centuries_ahead_is_found_at_once(zone: tzinfo) -> None:
    past = ((date(2020, 1, 1), date(2020, 2, 1)),)
    over = tuple(Window(30 * n, 30 * n + 15, dates=past, slots=1) for n in range(40))
    coming = Window(1320, 390, dates=((date(2222, 2, 22), date(2222, 2, 22)),), slots=0)
    calendar = Calendar(3, None, (*over, coming), zone)
    time = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    before = clocks.process_time()
    change = calendar.change_after(time)
    assert clocks.process_time() - before < 1  # some ms; day by day it would be 72 thousand days
    assert change == datetime(2222, 2, 22, 22, 0, tzinfo=zone).timestamp()
    assert calendar.change_after(change) == datetime(2222, 2, 23, 6, 30, tzinfo=zone).timestamp()


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_dates_of_whole_days_begin_and_end_at_midnight_however_far_ahead(name: str) -> None:
    zone = ZoneInfo(name)
    first, last = date(2027, 2, 1), date(2027, 4, 30)
    calendar = Calendar(3, None, (Window(dates=((first, last),), slots=1),), zone)
    begin = datetime(2027, 2, 1, tzinfo=zone).timestamp()
    end = datetime(2027, 5, 1, tzinfo=zone).timestamp()
    for days in (1, 15, 16, 17, 18, 40, 300):
        for seconds in (-1, -0.5, 0, 1, 43200):
            assert calendar.change_after(begin - days * DAY - seconds) == begin
            if days < 80:
                assert calendar.change_after(end - days * DAY - seconds) == end
    assert calendar.change_after(begin) == end
    assert calendar.change_after(end) is None


# --- by hand ---


def in_berlin(*moment: int) -> float:
    return datetime(*moment, tzinfo=BERLIN).timestamp()  # type: ignore[misc,arg-type]


def test_a_night_in_which_clocks_change_is_shorter_or_longer() -> None:
    night = Calendar(0, None, (Window(1320, 390, slots=2),), BERLIN)
    for day, hours in ((28, 8.5), (29, 7.5), (30, 8.5)):
        noon = in_berlin(2026, 3, day, 12) - DAY
        assert night.seconds(noon, noon + DAY) == 2 * hours * 3600
    noon = in_berlin(2026, 10, 24, 12)
    assert night.seconds(noon, noon + DAY) == 2 * 9.5 * 3600


def test_the_hour_that_comes_twice_is_twice_in_a_window() -> None:
    early = Calendar(0, None, (Window(120, 180, slots=1),), BERLIN)
    day = in_berlin(2026, 10, 25)
    assert early.seconds(day, day + DAY) == 7200
    assert early.change_after(day) == day + 2 * 3600
    assert early.change_after(day + 2 * 3600) == day + 4 * 3600  # 3:00, which comes once


def test_a_window_in_the_hour_that_is_skipped_does_not_take_place() -> None:
    early = Calendar(1, None, (Window(120, 180, slots=0),), BERLIN)
    day = in_berlin(2026, 3, 29)
    assert early.change_after(day) == in_berlin(2026, 3, 30, 2)
    assert early.seconds(day, day + 23 * 3600) == 23 * 3600


def test_a_window_across_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    dates = ((date(2026, 12, 25), date(2026, 12, 25)),)  # a Friday
    for window in (Window(1320, 390, frozenset({4}), slots=9), Window(1320, 390, dates=dates, slots=9)):
        calendar = Calendar(3, None, (window,), BERLIN)
        begin, end = in_berlin(2026, 12, 25, 22), in_berlin(2026, 12, 26, 6, 30)
        assert calendar.at(in_berlin(2026, 12, 25, 6)).slots == 3
        assert calendar.change_after(in_berlin(2026, 12, 25)) == begin
        assert calendar.at(begin) == Allowance(9, None, 0)
        assert calendar.change_after(begin) == end
        assert calendar.falls(begin) == ((end, 3),)
        assert calendar.falls(end, 60) == ()


def test_the_later_of_two_windows_decides_what_it_speaks_of() -> None:
    some = (Window(slots=8, nice=5), Window(600, 720, slots=2), Window(660, 780, nice=10))
    calendar = Calendar(3, 19, some, UTC)
    day = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    found = {hours: calendar.at(day + hours * 3600) for hours in (9, 10, 11, 12, 13)}
    assert found == {
        9: Allowance(8, 5, 0),
        10: Allowance(2, 5, 1),
        11: Allowance(2, 10, 1),
        12: Allowance(8, 10, 0),
        13: Allowance(8, 5, 0),
    }


def test_only_what_falls_below_all_before_is_a_fall() -> None:
    some = (Window(600, 660, slots=2), Window(660, 720, slots=5), Window(720, 780, slots=3))
    calendar = Calendar(4, None, (*some, Window(780, 840, slots=1), Window(840, 900, slots=0)), UTC)
    day = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    assert calendar.falls(day) == ((day + 36000, 2), (day + 46800, 1), (day + 50400, 0))
    assert calendar.falls(day, 46800) == ((day + 36000, 2),)


def test_calendars_of_the_same_limits_are_equal_and_those_of_hosts_the_same() -> None:
    one, other = (Calendar(3, None, (Window(slots=n),), BERLIN) for n in (1, 1))
    assert one.at(0) == other.at(0)
    assert one.change_after(0) is None
    assert one == other
    assert len({one, other, Calendar(2, None, (Window(slots=1),), BERLIN)}) == 2
    assert Host("a", 3, windows=one.windows, zone=BERLIN).calendar == one
    assert Host("a", 3, windows=one.windows).calendar is Host("b", 3, windows=other.windows).calendar


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (Window(), "always"),
        (Window(60, 60), "always"),
        (Window(1320, 390), "22:00-06:30"),
        (Window(1080, 1440), "18:00-24:00"),
        (Window(1320, 390, frozenset(range(5))), "mon-fri 22:00-06:30"),
        (Window(weekdays=frozenset({5, 6})), "sat, sun"),
        (Window(0, 60, frozenset({0, 1, 2, 4, 6})), "mon-wed, fri, sun 00:00-01:00"),
        (
            Window(dates=((date(2026, 12, 24), date(2027, 1, 6)), (date(2027, 5, 1), date(2027, 5, 1)))),
            "2026-12-24..2027-01-06, 2027-05-01",
        ),
    ],
)
def test_windows_are_described_for_people(window: Window, text: str) -> None:
    assert describe(window) == text
