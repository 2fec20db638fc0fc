"""Will it fit? When so much work is done on hosts with these calendars, and what would make it fit.

Pure: times are Unix seconds and given. How long jobs take is known elsewhere (see `forecast`); here is what
follows from it: an end, a verdict on a deadline, and when to tell somebody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from math import ceil, inf

from pisa_fab.calendar import DAY_NAMES, Calendar
from pisa_fab.errors import UsageError
from pisa_fab.forecast import Work

MOST_CHANGES = 1500  # of calendars that are walked through; what is later is taken from the mean so far
FOR_EVER = 16 * 86400.0  # seconds; what stays open longer is taken never to be closed
AHEAD = 400 * 86400.0  # seconds; where no slot is open for so long, none ever is
RECURRED = 15 * 86400.0  # seconds; what comes every week has come
QUARTER = 900.0  # a later deadline is proposed to the quarter of an hour
MOST_MORE = 64  # more slots a host, or times as many hosts, are nothing to propose
SPARE = 0.05  # of the time that is left: too little to speak of a deadline as missed, or as safe
LEAST_SPARE = 60.0  # seconds
PERSISTS = 120.0  # seconds for which a forecast says the same before anybody is told
REPEATED = 3600.0  # seconds between two warnings
ENOUGH = 20  # successes after which a forecast is worth a warning
WIDTH = 80  # characters of a line

# ----------------------------------------------------------------------------------------------------
# Calendars
# ----------------------------------------------------------------------------------------------------


def finish(
    work: float, longest: float, calendars: Sequence[Calendar], now: float, *, over_edges: bool = True
) -> float | None:
    """Give when so many slot-seconds of work are done on these hosts, from `now` on; None for never.

    Args:
        work: seconds of all jobs, one after the other.
        longest: seconds of the longest of them, which one slot must do.
        calendars: one a host.
        now: when the work begins.
        over_edges: whether a job that fits into no time that a slot is open goes on in the next one (as it
            does where it is paused); else it never ends.

    All slots are taken to be busy to the end; what the last jobs leave idle comes on top.
    """
    groups = Counter(calendars)
    done, alone = _all_done(work, groups, now), _first_done(longest, groups, now, over_edges)
    return None if done is None or alone is None else max(done, alone)


def stretch(calendar: Calendar, now: float, within: float) -> float:
    """Give the longest time, in seconds, for which one slot stays open without a break.

    Times that begin less than `within` seconds after `now` count, to their end; infinite for one without end.
    """
    return max((end - begin for begin, end in _open(calendar, now, now + within)), default=0.0)


def _open(calendar: Calendar, now: float, until: float) -> Iterator[tuple[float, float]]:
    """Give the times in which there is a slot at all, from `now` on, that begin before `until`."""
    begin: float | None = None
    moment: float | None = now
    while moment is not None:
        if calendar.at(moment).slots:
            begin = moment if begin is None else begin
            if moment - begin > FOR_EVER:
                break
        elif begin is not None:
            yield begin, moment
            begin = None
        if begin is None and moment >= until:
            return
        moment = calendar.change_after(moment)
    if begin is not None:
        yield begin, inf


def _first_done(longest: float, groups: Mapping[Calendar, int], now: float, over_edges: bool) -> float | None:
    """Give when a single job is done on the host that is first with it."""
    if longest <= 0:
        return now
    ends = [_one_done(longest, calendar, now, over_edges) for calendar in groups]
    return min((end for end in ends if end is not None), default=None)


def _one_done(longest: float, calendar: Calendar, now: float, over_edges: bool) -> float | None:
    """Give when a single job is done that is begun at the first time that is long enough for it."""
    done, left = None, longest
    for begin, end in _open(calendar, now, now + AHEAD):
        if end - begin >= longest:
            return begin + longest
        if done is None and left <= end - begin:
            done = begin + left
        left -= end - begin
        # What recurs has been seen after two weeks: if there was no time that is long enough, none will come.
        if begin > now + RECURRED and (done is not None or not over_edges):
            break
    return done if over_edges else None


def _all_done(work: float, groups: Mapping[Calendar, int], now: float) -> float | None:
    """Give when the work is done by all slots together."""
    if work <= 0:
        return now
    slots = {calendar: calendar.at(now).slots for calendar in groups}
    changes = {calendar: calendar.change_after(now) for calendar in groups}
    time, left = now, work
    for _ in range(max(10, MOST_CHANGES // max(1, len(groups)))):
        rate = sum(count * slots[calendar] for calendar, count in groups.items())
        change = min((moment for moment in changes.values() if moment is not None), default=None)
        if rate and (change is None or left <= rate * (change - time)):
            return time + left / rate
        if change is None:
            return None
        left -= rate * (change - time)
        time = change
        for calendar, moment in changes.items():
            if moment == change:
                slots[calendar], changes[calendar] = calendar.at(time).slots, calendar.change_after(time)
    return time + left * (time - now) / (work - left) if left < work else None


# ----------------------------------------------------------------------------------------------------
# Deadlines
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a deadline will be kept, and if not, what would help.

    Attributes:
        deadline, now: Unix times.
        end: when all is done, None for never.
        jobs: how many jobs are to be done.
        in_time: how many of them are done in time, about.
        later: a deadline that would be kept, None where there is none.
        more_slots: with so many slots more on every host, whenever it has any, it fits; None where not.
        more_hosts: likewise so many hosts more, each as good as those that there are in the mean.
        alone: the longest job, in seconds, where not even that ends in time; else None.
        open: whether any slot is open before the deadline.
    """

    deadline: float
    now: float
    end: float | None
    jobs: int
    in_time: int
    later: float | None = None
    more_slots: int | None = None
    more_hosts: int | None = None
    alone: float | None = None
    open: bool = True

    @property
    def fits(self) -> bool:
        """Whether it will be kept."""
        return not self.jobs or (self.end is not None and self.end <= self.deadline)

    @property
    def passed(self) -> bool:
        """Whether it has passed."""
        return self.deadline <= self.now

    def lines(self, zone: tzinfo) -> list[str]:
        """Say it in short lines: how it stands, and what would help. `zone` is that of the reader's clock."""
        deadline = clock(self.deadline, zone)
        if self.fits and not self.passed:
            end = clock(self.now if self.end is None else self.end, zone)
            return [f"done about {end}, before the deadline {deadline}"]
        if self.passed:
            return [f"the deadline {deadline} has passed"] if self.jobs else []
        if self.end is None:
            return [f"the deadline {deadline} is missed: it is never done", *self._why()]
        said = [f"the deadline {deadline} is missed: done about {clock(self.end, zone)}"]
        return [*said, *self._why(), *self._help(zone), *self._as_it_is()]

    def _why(self) -> list[str]:
        if not self.open:
            return ["no slot of the pool is open before it"]
        if self.alone is not None:
            return [f"one job takes up to {hours(self.alone)}, which does not fit before it"]
        return []

    def _help(self, zone: tzinfo) -> list[str]:
        ways = []
        if self.more_slots is not None:
            ways.append(f"{self.more_slots} more {'slot' if self.more_slots == 1 else 'slots'} a host")
        if self.more_hosts is not None:
            ways.append(f"{self.more_hosts} more {'host' if self.more_hosts == 1 else 'hosts'}")
        if self.later is not None:
            ways.append(f"deadline: {datetime.fromtimestamp(self.later, zone):%Y-%m-%d %H:%M}")
        if not ways:
            return []
        *others, last = ways
        either = f"it fits with {', '.join(others)}{', or ' if others else ''}{last}"
        if len(either) <= WIDTH or not others:
            return [either]
        return [f"it fits with {' or '.join(others)}", f"or with {last}"]

    def _as_it_is(self) -> list[str]:
        return [f"as it is, about {self.in_time} of {self.jobs} jobs are done in time"]

    def refusal(self, zone: tzinfo) -> UsageError | None:
        """Give the error for a batch that must not be started, None where it may."""
        if self.fits and not (self.passed and self.jobs):
            return None
        first, *others = self.lines(zone)
        instead = "leave deadline out to run it all the same"
        if self.passed:
            instead = "write a later one, or leave it out"
        return UsageError(first, "; ".join([*others, instead]))


def verdict(
    work: Work, deadline: float, calendars: Sequence[Calendar], now: float, *, over_edges: bool = True
) -> Verdict:
    """Judge whether so much work is done before a deadline on these hosts; see `finish` for the arguments."""
    if not work.jobs or deadline <= now:
        return Verdict(deadline, now, now if not work.jobs else None, work.jobs, 0)
    end = finish(work.seconds, work.longest, calendars, now, over_edges=over_edges)
    if end is not None and end <= deadline:
        return Verdict(deadline, now, end, work.jobs, work.jobs)
    groups = Counter(calendars)
    allowed = sum(count * calendar.seconds(now, deadline) for calendar, count in groups.items())
    opened = sum(count * _open_seconds(calendar, now, deadline) for calendar, count in groups.items())
    alone = _first_done(work.longest, groups, now, over_edges)
    one_fits = alone is not None and alone <= deadline
    share = min(1.0, allowed / work.seconds) if work.seconds > 0 else 1.0
    missing = work.seconds - allowed
    slots = hosts = None
    if one_fits and opened > 0 and missing > 0:
        slots = _sensible(ceil(missing / opened), MOST_MORE)
        hosts = _sensible(ceil(missing / (allowed / len(calendars))), MOST_MORE * len(calendars))
    return Verdict(
        deadline,
        now,
        end,
        work.jobs,
        min(work.jobs - 1, int(work.jobs * share)),
        later=None if end is None else ceil((end + SPARE * (end - now)) / QUARTER) * QUARTER,
        more_slots=slots,
        more_hosts=hosts,
        alone=None if one_fits else work.longest,
        open=opened > 0,
    )


def _sensible(number: int, most: int) -> int | None:
    return number if number <= most else None


def _open_seconds(calendar: Calendar, begin: float, end: float) -> float:
    return sum(min(last, end) - first for first, last in _open(calendar, begin, end) if first < end)


class Alarm:
    """Says when somebody is to be told that a deadline will not be kept: early, but not again and again.

    A forecast must say so for two minutes, by more than a margin, and know something; so must one that takes
    it back. While it stays so it is said again only when the end has moved, and once an hour at most.
    """

    def __init__(self) -> None:
        self._warned = False
        self._since: float | None = None  # when the forecast began to say other than what was told
        self._told_at = -inf
        self._told_end: float | None = None
        self._passed = False

    def look(self, verdict: Verdict, zone: tzinfo, learned: int, *, given: bool = False) -> list[str]:
        """Give the lines to show now, none for nothing new; called every now and then.

        `learned` is how many jobs have succeeded, `given` whether the jobs file says how long they take.
        """
        if verdict.passed:
            first, self._passed = not self._passed, True
            return verdict.lines(zone) if first else []
        if learned < ENOUGH and learned < verdict.jobs and not given:
            return []
        if self._is_other(verdict):
            self._since = verdict.now if self._since is None else self._since
            if verdict.now - self._since >= PERSISTS:
                self._warned = not self._warned
                return self._tell(verdict, zone)
            return []
        self._since = None
        if self._warned and verdict.now - self._told_at >= REPEATED and self._has_moved(verdict):
            return self._tell(verdict, zone)
        return []

    def _is_other(self, verdict: Verdict) -> bool:
        """Whether the forecast clearly says other than what was told."""
        spare = max(LEAST_SPARE, SPARE * (verdict.deadline - verdict.now))
        if self._warned:
            return verdict.fits and (verdict.end is None or verdict.end <= verdict.deadline - spare)
        return not verdict.fits and (verdict.end is None or verdict.end > verdict.deadline + spare)

    def _has_moved(self, verdict: Verdict) -> bool:
        if verdict.end is None or self._told_end is None:
            return verdict.end is not self._told_end
        return abs(verdict.end - self._told_end) > max(QUARTER, 0.1 * (verdict.end - verdict.now))

    def _tell(self, verdict: Verdict, zone: tzinfo) -> list[str]:
        self._since, self._told_at, self._told_end = None, verdict.now, verdict.end
        return verdict.lines(zone)


# ----------------------------------------------------------------------------------------------------
# Words
# ----------------------------------------------------------------------------------------------------


def clock(time: float, zone: tzinfo) -> str:
    """Give a time as a clock of a zone shows it: `Tue 2026-12-01 07:00`."""
    local = datetime.fromtimestamp(time, zone)
    return f"{DAY_NAMES[local.weekday()].capitalize()} {local:%Y-%m-%d %H:%M}"


def hours(seconds: float) -> str:
    """Give a time that a job takes, for people: `40 s`, `25 min`, `20 h`, `3.5 d`."""
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def too_long(longest: float, calendars: Sequence[Calendar], now: float, within: float) -> str:
    """Say that a job fits into no window, "" where it fits into one; for the start of a run."""
    most = max((stretch(calendar, now, within) for calendar in Counter(calendars)), default=0.0)
    if longest <= most:
        return ""
    if not most:
        return f"no slot of the pool is open in the next {hours(within)}"
    return f"a job takes up to {hours(longest)}, but no window of the pool is longer than {hours(most)}"
