"""How many jobs a host may run at a given time, and when that changes: pure, time is an argument.

A window is read on the wall clock of the pool: a moment is in it when the clock on the wall shows a time
from its begin until before its end, on the right day. So in the hour that comes twice in autumn both passes
count, and of what the clock skips in spring nothing is left. The day of a window that goes across midnight is
that on which it begins.

Between two jumps of the clock the time on the wall is Unix time and a constant offset. All that looks ahead
goes from one such stretch to the next, and in each from one begin or end of a window to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from functools import cached_property

EVERY_DAY = frozenset(range(7))
DAY = 86400
WHOLE_DAY = 1440
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_EPOCH = date(1970, 1, 1).toordinal()
# Time ends here: datetime knows no year after 9999.
_LAST = (date.max.toordinal() - _EPOCH - 7) * float(DAY)
# What repeats every week is seen within two, even when the zone skips one of the days.
_LOOK = 16 * DAY


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of some days in which other limits hold.

    Attributes:
        begin: minutes after midnight, on the wall clock.
        end: likewise, at most 1440; less than `begin` when it is on the next day; equal to it for whole days.
        weekdays: of the day on which it begins, 0 for Monday.
        dates: of that day too, first and last of each range; empty for always.
        slots: how many jobs at once, None for as many as without it.
        nice: of the jobs, None for that which they have without it.
    """

    begin: int = 0
    end: int = WHOLE_DAY
    weekdays: frozenset[int] = EVERY_DAY
    dates: tuple[tuple[date, date], ...] = ()
    slots: int | None = None
    nice: int | None = None

    def begins_on(self, ordinal: int) -> bool:
        """Whether it begins on a day, which is given as its proleptic Gregorian ordinal."""
        if (ordinal - 1) % 7 not in self.weekdays:
            return False
        return not self.dates or any(a.toordinal() <= ordinal <= b.toordinal() for a, b in self.dates)

    def holds(self, wall: float) -> bool:
        """Whether it holds when the wall clock shows this time, in seconds since its 1970-01-01 00:00."""
        days, seconds = divmod(wall, DAY)
        today = int(days) + _EPOCH
        if self.begin == self.end:
            return self.begins_on(today)
        if self.begin < self.end:
            return self.begin * 60 <= seconds < self.end * 60 and self.begins_on(today)
        if seconds < self.end * 60 and self.begins_on(today - 1):
            return True
        return seconds >= self.begin * 60 and self.begins_on(today)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a host may run at one time.

    Attributes:
        slots: how many jobs at once.
        nice: of the jobs, None for that of the batch.
        window: the index of the window that says the slots, None outside of all.
    """

    slots: int
    nice: int | None
    window: int | None


@dataclass(frozen=True)
class Calendar:
    """The limits of one host over time. Times are Unix seconds.

    Attributes:
        slots: how many jobs at once outside of all windows.
        nice: of the jobs outside of all windows, None for that of the batch.
        windows: where two overlap, the later one in the list decides what it has something to say about.
        zone: whose wall clock is meant.
    """

    slots: int
    nice: int | None = None
    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC

    def at(self, time: float) -> Allowance:
        """Give what holds at a time."""
        return self._on_the_wall(time + self._offset(time)) if self.windows else self._outside

    def change_after(self, time: float) -> float | None:
        """Give the first later time at which something else holds than at this one; None for never."""
        if not self.windows:
            return None
        now, seen = self.at(time), time
        for begin, end in self._stretches(time):
            begin = max(begin, seen)
            if begin >= _LAST:
                break
            if begin > time and self.at(begin) != now:  # which is no moment between the ends of a stretch
                return begin
            for moment, _ in self._changes(begin, end):
                return moment
            seen = max(seen, end)
        return None

    def falls(self, time: float, horizon: float = 8 * DAY) -> tuple[tuple[float, int], ...]:
        """Give the coming times at which the slots get fewer than they ever were since `time`, and how few.

        A job that runs in slot k, the first being 0, is above the limit from the first of these times on
        whose slots are k or fewer. Only times less than `horizon` seconds ahead are given.
        """
        found: list[tuple[float, int]] = []
        lowest = self.at(time).slots
        for moment, allowance in self._changes(time, time + horizon):
            if allowance.slots < lowest:
                lowest = allowance.slots
                found.append((moment, lowest))
            if lowest == 0:
                break
        return tuple(found)

    def seconds(self, begin: float, end: float) -> float:
        """Give the slot-seconds that are allowed from one time to another: 3 slots for an hour are 10800."""
        if end <= begin:
            return 0.0
        total, since, slots = 0.0, begin, self.at(begin).slots
        for moment, allowance in self._changes(begin, end):
            total += slots * (moment - since)
            since, slots = moment, allowance.slots
        return total + slots * (end - since)

    # --- what holds ---

    @cached_property
    def _outside(self) -> Allowance:
        return Allowance(self.slots, self.nice, None)

    def _on_the_wall(self, wall: float) -> Allowance:
        slots, nice, deciding = self.slots, self.nice, None
        for index, window in enumerate(self.windows):
            if window.holds(wall):
                if window.slots is not None:
                    slots, deciding = window.slots, index
                if window.nice is not None:
                    nice = window.nice
        return Allowance(slots, nice, deciding)

    # --- looking ahead ---

    def _changes(self, begin: float, end: float) -> Iterator[tuple[float, Allowance]]:
        """Give every time between two, both left out, at which something else holds than before."""
        if not self.windows:
            return
        before = self.at(begin)
        for moment, wall in self._moments(begin, end):
            now = self._on_the_wall(wall)
            if now != before:
                yield moment, now
                before = now

    def _moments(self, begin: float, end: float) -> Iterator[tuple[float, float]]:
        """Give every time between two at which a change is possible, and what the wall clock shows then."""
        for start, stop, offset in self._even(begin, end):
            if start > begin:
                yield start, start + offset
            for day in range(int((start + offset) // DAY), int((stop + offset) // DAY) + 1):
                for edge in self._edges:
                    wall = float(day * DAY + edge)
                    if start < wall - offset < stop:
                        yield wall - offset, wall

    @cached_property
    def _edges(self) -> tuple[int, ...]:
        """The seconds after midnight at which a window may begin or end; those of 24:00 are the next 0:00."""
        minutes = {0} | {edge for window in self.windows for edge in (window.begin, window.end)}
        return tuple(sorted(minute * 60 for minute in minutes if minute < WHOLE_DAY))

    def _even(self, begin: float, end: float) -> Iterator[tuple[float, float, float]]:
        """Cut a stretch of time into parts in which the wall clock does not jump: begin, end and offset."""
        end = min(end, _LAST)
        start, offset = begin, self._offset(min(begin, _LAST))
        while start < end:
            stop = min(end, (start // DAY + 1) * DAY)
            then = self._offset(stop)
            if then != offset:
                jump = self._jump(start, stop, offset)
                yield start, jump, offset
                start, offset = jump, self._offset(jump)
            else:
                yield start, stop, offset
                start = stop

    def _jump(self, start: float, stop: float, offset: float) -> float:
        """Find, to the second, when the offset is no longer that of `start`; at `stop` it is another one."""
        low, high = int(start // 1), int(stop // 1)  # clocks jump at whole seconds
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return float(high)

    def _offset(self, time: float) -> float:
        """Give the seconds by which the wall clock is ahead of UTC."""
        ahead = datetime.fromtimestamp(time, self.zone).utcoffset()
        return ahead.total_seconds() if ahead is not None else 0.0

    def _stretches(self, time: float) -> Iterator[tuple[float, float]]:
        """Give all times that must be looked at to find a change after `time`, in order.

        When nothing has changed for two weeks, nothing does until the dates of a window begin or have passed.
        """
        yield time, time + _LOOK
        for ordinal in self._turns:
            midnight = float((ordinal - _EPOCH) * DAY)  # of UTC; everybody's is within a day and a bit
            if midnight + _LOOK > time:
                yield midnight - 2 * DAY, midnight + _LOOK

    @cached_property
    def _turns(self) -> tuple[int, ...]:
        """The days, as ordinals, on which the dates of a window begin, or first have passed."""
        ranges = [dates for window in self.windows for dates in window.dates]
        return tuple(sorted({a.toordinal() for a, _ in ranges} | {b.toordinal() + 1 for _, b in ranges}))


# --- for people ---


def describe(window: Window) -> str:
    """Say when a window is: `mon-fri 22:00-06:30`, `sat, sun`, `2026-12-24..2027-01-06`, `always`."""
    parts = []
    if window.weekdays != EVERY_DAY:
        parts.append(_days(window.weekdays))
    if window.dates:
        parts.append(", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in window.dates))
    if window.begin != window.end and (window.begin, window.end) != (0, WHOLE_DAY):
        parts.append(f"{_clock(window.begin)}-{_clock(window.end)}")
    return " ".join(parts) or "always"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _days(weekdays: frozenset[int]) -> str:
    """Name weekdays, three and more in a row as a range."""
    rows: list[list[int]] = []
    for day in sorted(weekdays):
        if rows and rows[-1][-1] == day - 1:
            rows[-1].append(day)
        else:
            rows.append([day])
    names = []
    for row in rows:
        if len(row) > 2:
            names.append(f"{DAY_NAMES[row[0]]}-{DAY_NAMES[row[-1]]}")
        else:
            names.extend(DAY_NAMES[day] for day in row)
    return ", ".join(names)
