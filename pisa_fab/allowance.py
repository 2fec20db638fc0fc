"""What a host's calendar allows, as the head acts upon it: a moment early where that will be less.

Pure: times are Unix seconds and given. Built on `calendar`, which knows what was written; what else keeps
jobs from a host (people, memory) is `moderation`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from pisa_fab.calendar import Allowance
from pisa_fab.model import AtEdge, Host
from pisa_fab.outlook import stretch

EARLY = 7.0  # seconds before slots are fewer that jobs make room: as long as one takes to be ended
PHASES = 4  # so many changes ahead are told to a worker; it hears of the next ones when the first has come
HORIZON = 8 * 86400.0  # seconds; what recurs does so within a week


@dataclass(frozen=True, slots=True)
class Horizon:
    """Before which times jobs of a host have to have ended.

    Attributes:
        falls: (time, slots), ascending: from then on no more than so many slots are left, each fewer than
            the one before.
        longest: seconds; a job that takes longer than this cannot be kept from running into such a time,
            and is started all the same; infinite where it is not.
    """

    falls: tuple[tuple[float, int], ...] = ()
    longest: float = inf

    def shifted(self, seconds: float) -> Horizon:
        """Give the same on another clock."""
        return Horizon(tuple((time + seconds, slots) for time, slots in self.falls), self.longest)


def allowed(host: Host, time: float) -> Allowance:
    """Give what holds at a time: what the calendar says, or what it says in a moment if that is less."""
    soon = host.calendar.at(time + EARLY)
    now = host.calendar.at(time)
    return soon if soon.slots < now.slots else now


def change_after(host: Host, time: float) -> float | None:
    """Give the first time after this one at which something else is allowed, None for never."""
    before = allowed(host, time)
    moment: float | None = time
    while moment is not None:
        moment = host.calendar.change_after(moment)
        if moment is None:
            return None
        for candidate in (moment - EARLY, moment):
            if candidate > time and allowed(host, candidate) != before:
                return candidate
    return None


def phases(host: Host, time: float, nice: int) -> list[tuple[float, int, int]]:
    """Give what a worker is told: (in so many seconds, slots, nice); `nice` is for where none is said."""
    found: list[tuple[float, int, int]] = []
    moment: float | None = time
    while moment is not None and len(found) <= PHASES:
        now = allowed(host, moment)
        found.append((moment - time, now.slots, nice if now.nice is None else now.nice))
        moment = change_after(host, moment)
    return found


def least_nice(host: Host, nice: int) -> int:
    """Give the lowest nice value that jobs of a host may ever have: that of its worker, who starts them."""
    calendar = host.calendar
    own = nice if calendar.nice is None else calendar.nice
    return min([own, *(window.nice for window in calendar.windows if window.nice is not None)])


def horizon(host: Host, time: float) -> Horizon:
    """Give before which times jobs that are started now have to have ended."""
    falls = tuple((fall - EARLY, slots) for fall, slots in host.calendar.falls(time, HORIZON))
    if not falls or host.at_edge is not AtEdge.PAUSE:
        return Horizon(falls)
    return Horizon(falls, stretch(host.calendar, time, HORIZON) - EARLY)
