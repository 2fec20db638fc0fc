"""Longest first: in which order fresh jobs are started where it can be foreseen how long they take.

The longest first: then what is left at the end is short, and all slots are busy until then. The end is at
most a third of the best possible time later than it could be (R. L. Graham, Bounds on Multiprocessing Timing
Anomalies, 1969; for equal slots). How long a job took the last time is known best; of others `forecast` says
it. Pure, and bounded in what it costs: what would cost more than it can win is not done.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from sys import maxsize

from pisa_fab.events import JobRecord
from pisa_fab.forecast import ENOUGH_TO_CORRECT, SHORTEST, Arguments, Forecast
from pisa_fab.scheduler import Scheduler

# Jobs of which a forecast is asked in one go: that takes 60 to 110 ms, in which the head does nothing else.
MOST_FORECAST = 10_000
LOOKED_AT = 200  # jobs that stand for all that wait
# What an order can win is about as long as the longest job takes. So that has to be longer than ten times
# what it costs to find it: so many seconds for each job, and for each forecast.
COST_IN_ORDER = 0.00001
COST_OF_FORECAST = 0.00005
SELDOM = 0.1  # less than this part of that is so short that it is seldom looked at


class LastTimes:
    """How long each job took when it last succeeded, in seconds; four bytes a job.

    Attributes:
        seconds: by number, 0 where nothing is known; may be shorter than the batch; read only.
    """

    def __init__(self) -> None:
        self.seconds = array("f")

    def took(self, job: int, seconds: float) -> None:
        """Note that a job has succeeded after so many seconds, without its pauses."""
        missing = job + 1 - len(self.seconds)
        if missing > 0:
            self.seconds.frombytes(bytes(missing * self.seconds.itemsize))
        self.seconds[job] = max(seconds, SHORTEST)

    def of(self, job: int) -> float | None:
        """Give how long a job took, None if it never succeeded."""
        return (self.seconds[job] or None) if job < len(self.seconds) else None


@dataclass(slots=True)
class Order:
    """The order that was made last, and when to look whether there is a better one.

    Attributes:
        forecasts: seconds, of those that were put in order by a forecast.
        all_known: whether something was known of all that were put in order.
        looked_at: successes at the last look.
        look_at: successes from which on there is something new to look at, or
        look_left: with any new one, so many jobs that wait.
        look_below: while more jobs wait, there is nothing to look at.
    """

    forecasts: dict[int, float] = field(default_factory=dict)
    all_known: bool = False
    looked_at: int = -1
    look_at: int = 0
    look_left: int = 0
    look_below: float = inf


class LongestFirst:
    """Puts the fresh jobs of a scheduler in order, when something is known and again when more is.

    Attributes:
        last: how long jobs took the last time; kept over runs.
    """

    def __init__(self, scheduler: Scheduler, forecast: Forecast, records: Mapping[int, JobRecord]) -> None:
        self.last = LastTimes()
        self._scheduler = scheduler
        self._forecast = forecast
        self._records = records
        self._order = Order()

    def __getstate__(self) -> dict[str, object]:
        """Give what the events determine: the order is made anew by who has a use for it."""
        return vars(self) | {"_order": Order()}

    def begin(self) -> None:
        """Begin anew: another run, or jobs that were asked for again."""
        self._order = Order()

    def look(self) -> None:
        """Put the fresh jobs in order if it is time for that; called before every decision."""
        waiting, learned = self._scheduler.waiting, self._forecast.learned
        if not waiting or waiting > self._order.look_below or learned == self._order.looked_at:
            return
        if learned < self._order.look_at and waiting > self._order.look_left:
            return
        fresh = self._scheduler.fresh()
        unknown = [job for job in fresh if self.last.of(job) is None]
        if len(unknown) > MOST_FORECAST:
            # When so many have been started as could be too many now; seldom, because each look costs.
            self._order.look_below = waiting - max(len(unknown) - MOST_FORECAST, MOST_FORECAST // 4)
            return
        self._order.looked_at, self._order.look_below = learned, inf
        worth = self._worth(fresh, unknown) if len(fresh) > 1 else 0.0
        if worth > 1:
            self._put_in_order(fresh, unknown)
        # Twice as much makes another forecast, and the fewer are left, the more it matters. Jobs that are far
        # too short seldom become long. What took so long the last time stays as it is.
        often = 2 if not worth or worth > SELDOM else 4
        self._order.look_at = max(often * learned, ENOUGH_TO_CORRECT) if unknown else maxsize
        self._order.look_left = waiting // often if unknown else 0

    def _worth(self, fresh: Sequence[int], unknown: Sequence[int]) -> float:
        """Give how many times longer the longest job is than it should be for an order; 0 for not known."""
        known = len(fresh) > len(unknown)
        longest = max(self.last.of(job) or 0.0 for job in fresh) if known else 0.0
        work = self._forecast.total(unknown, self._arguments, LOOKED_AT)
        if work is not None:
            longest = max(longest, work.longest)
        elif not known:
            return 0.0
        return longest / (COST_IN_ORDER * len(fresh) + COST_OF_FORECAST * len(unknown))

    def _put_in_order(self, fresh: Sequence[int], unknown: Sequence[int]) -> None:
        """Put them in order; those of which nothing is known come first, because they may be the longest."""
        expected = {job: self._forecast.expect(self._arguments(job)) for job in unknown}
        self._order.forecasts = {job: found.seconds if found else inf for job, found in expected.items()}
        self._order.all_known = None not in expected.values()
        hunches = {job: found.hunch if found else inf for job, found in expected.items()}

        def length(job: int) -> float:
            return self.last.of(job) or hunches[job]

        key = length if unknown else self.last.seconds.__getitem__
        self._scheduler.put_in_order(array("Q", sorted(fresh, key=key, reverse=True)))

    def _arguments(self, job: int) -> Arguments:
        record = self._records.get(job)
        return record.arguments if record is not None else {}

    def seconds(self, job: int) -> float:
        """Give how long a job that was put in order is expected to take; infinite where nothing is known."""
        return self.last.of(job) or self._order.forecasts.get(job, inf)

    def left(self, ran: Mapping[int, float], slots: int) -> float | None:
        """Estimate in how many seconds the last job ends; None where that is not known of all.

        `ran` says for how long each of the running jobs has run. One that has taken longer than expected
        needs a tenth of what it has taken: the longer it ran, the longer it will, as with all heavy tails.
        """
        todo = self._scheduler.unfinished - len(ran)
        waiting = [self.seconds(job) for job in self._scheduler.spread(LOOKED_AT)] if todo else []
        if not self._order.all_known or (todo and not waiting):
            return None
        running = [max(self.seconds(job) - so_far, 0.1 * so_far) for job, so_far in ran.items()]
        longest = max([*running, *waiting], default=inf)
        if longest == inf:
            return None
        mean = sum(waiting) / len(waiting) if waiting else 0.0
        return max(longest, (sum(running) + mean * todo) / slots)
