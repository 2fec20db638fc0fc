"""What waits to be run, in which order: the jobs that were lost with their hosts, fresh ones, retries.

A part of `scheduler`, pure as that. Fresh jobs are not listed anywhere: a cursor walks over the batch, so a
million of them cost nothing. They may be given another order than that of their numbers (see `order`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from typing import TypeVar

Avoid = TypeVar("Avoid")

_BITS = 32
_WORD = 1 << _BITS
_GOLDEN = 2654435769  # 2**32 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4)
_HOLES = 200  # so many more jobs that are not fresh than fresh ones are passed over before they are left out


class Queues:
    """The order of what waits. Each job that had a turn before comes with the host to avoid, or "".

    Attributes:
        jobs: the batch's, ascending.
        hopeless: those that are to be given up instead.
        unwanted: those that are to be cancelled instead.
    """

    def __init__(self) -> None:
        self.jobs: Sequence[int] = ()
        self.hopeless: OrderedDict[int, None] = OrderedDict()
        self.unwanted: OrderedDict[int, None] = OrderedDict()
        self._cursor = 0  # no fresh job of the batch stands before it
        self._order: Sequence[int] = ()  # all that are fresh, and some that are not any more; () by number
        self._place = 0  # no fresh job stands before it in that order
        self._scatter = 0  # where `scattered` goes on, in parts of the batch
        self._alone: OrderedDict[int, str] = OrderedDict()
        self._first: OrderedDict[int, str] = OrderedDict()
        self._last: OrderedDict[int, str] = OrderedDict()

    def start(self, jobs: Sequence[int]) -> None:
        """Begin with another batch, and nothing queued."""
        self.jobs = jobs
        self._cursor = 0
        self._order, self._place = (), 0
        for queue in (self._alone, self._first, self._last, self.hopeless, self.unwanted):
            queue.clear()

    def put_alone(self, job: int, avoid: str) -> None:
        """Queue a job that is not to run beside others of its kind."""
        self._alone[job] = avoid

    def last_chances(self) -> list[tuple[int, str]]:
        """Give those jobs, and the host that each is to avoid, as they are now."""
        return list(self._alone.items())

    def put_first(self, job: int, avoid: str) -> None:
        """Queue a job before the fresh ones."""
        self._first[job] = avoid

    def put_last(self, job: int, avoid: str) -> None:
        """Queue a job behind the fresh ones."""
        self._last[job] = avoid

    def remove(self, job: int) -> bool:
        """Take a job out of every queue; say whether it was in one."""
        found = False
        for queue in (self._alone, self._first, self._last, self.hopeless, self.unwanted):
            if job in queue:
                del queue[job]
                found = True
        return found

    def rewind(self, job: int) -> None:
        """Let the cursor find this job again, which waits like a fresh one; the order that was given ends."""
        self._cursor = min(self._cursor, bisect_left(self.jobs, job))
        self._order, self._place = (), 0

    @property
    def is_in_order(self) -> bool:
        """Whether the fresh jobs come in an order that was given."""
        return bool(self._order)

    def put_in_order(self, jobs: Sequence[int]) -> None:
        """Let the fresh jobs, which are these, come in this order; none for that of their numbers."""
        self._order, self._place = jobs, 0

    def fresh(self, state: bytearray, waiting: int) -> list[int]:
        """Give all fresh jobs, ascending; `state` and `waiting` as for `next`."""
        queued = self._alone.keys() | self._first.keys() | self._last.keys()
        if state.find(waiting) < 0:
            return []
        return [job for job in self.jobs if state[job] == waiting and job not in queued]

    def spread(self, state: bytearray, waiting: int, most: int) -> list[int]:
        """Give up to `most` of the fresh jobs, evenly from the order that was given."""
        order, step = self._order, max(1.0, (len(self._order) - self._place) / most)
        count = int((len(order) - self._place) / step)
        found = [order[self._place + int((i + 0.5) * step)] for i in range(count)]
        return [job for job in found if state[job] == waiting and not self._is_queued(job)]

    def next(self, state: bytearray, waiting: int) -> tuple[int, str] | None:
        """Give the job that comes next and the host to avoid; fresh are those whose state is `waiting`."""
        if self._first:
            job = next(iter(self._first))
            return job, self._first[job]
        order = self._order
        while self._place < len(order):
            job = order[self._place]
            if state[job] == waiting and job not in self._last and job not in self._alone:
                return job, ""
            self._place += 1
        self._order = ()
        jobs = self.jobs
        while self._cursor < len(jobs):
            job = jobs[self._cursor]
            if state[job] == waiting and job not in self._last and job not in self._alone:
                return job, ""
            self._cursor += 1
        if self._last:
            job = next(iter(self._last))
            return job, self._last[job]
        return None

    def ahead(self, state: bytearray, waiting: int, most: int) -> Iterator[tuple[int, str]]:
        """Give the jobs that come next, as `next` does, each once, but no more than `most` that are left.

        Whoever takes one out (`remove`, or another state) may go on with the next.
        """
        passed = 0
        for queue in (self._first, self._last):
            if queue is self._last:
                for job in self._fresh(state, waiting):
                    yield job, ""
                    passed += state[job] == waiting
                    if passed >= most:
                        return
            for job, avoid in list(queue.items()):
                yield job, avoid
                passed += job in queue
                if passed >= most:
                    return

    def _fresh(self, state: bytearray, waiting: int) -> Iterator[int]:
        """Give the fresh jobs in their order."""
        return self._by_order(state, waiting) if self._order else self._by_number(state, waiting)

    def _by_order(self, state: bytearray, waiting: int) -> Iterator[int]:
        """Give the fresh jobs in the order that was given; when it has got many holes, it is made anew."""

        def is_fresh(job: int) -> bool:
            return state[job] == waiting and not self._is_queued(job)

        order, place, found = self._order, self._place, 0
        while place < len(order):
            if place - self._place > found + _HOLES:
                before = [job for job in order[self._place : place] if is_fresh(job)]
                order = self._order = [*before, *filter(is_fresh, order[place:])]
                self._place, place = 0, len(before)
                continue
            job = order[place]
            if is_fresh(job):
                if not found:
                    self._place = place
                found += 1
                yield job
            place += 1
        if not found:
            self._order = ()

    def _by_number(self, state: bytearray, waiting: int) -> Iterator[int]:
        """Give the fresh jobs by their numbers; what lies between them is passed over quickly."""
        jobs = self.jobs
        place, is_first = self._cursor, True
        while place < len(jobs):
            found = state.find(waiting, jobs[place])
            place = len(jobs) if found < 0 else bisect_left(jobs, found, place)
            if place == len(jobs):
                return
            job = jobs[place]
            if state[job] != waiting or job in self._last or job in self._alone:
                place += job == found
                continue
            if is_first:
                self._cursor, is_first = place, False
            place += 1
            if job not in self._first:
                yield job

    def scattered(self, state: bytearray, waiting: int, most: int) -> Iterator[int]:
        """Give up to `most` fresh jobs from all over the batch, others at the next time.

        They lie evenly but not in step with a sweep: at the multiples of the golden ratio. Where an order was
        given they come in it.
        """
        if self._order:
            yield from self._scattered_in_order(state, waiting, most)
            return
        jobs = self.jobs
        for _ in range(most):
            self._scatter = (self._scatter + _GOLDEN) % _WORD
            place = self._cursor + (self._scatter * (len(jobs) - self._cursor) >> _BITS)
            found = state.find(waiting, jobs[place]) if place < len(jobs) else -1
            place = bisect_left(jobs, found, place) if found >= 0 else len(jobs)
            if place < len(jobs) and jobs[place] == found and not self._is_queued(found):
                yield found

    def _scattered_in_order(self, state: bytearray, waiting: int, most: int) -> Iterator[int]:
        order, left = self._order, len(self._order) - self._place
        places = []
        for _ in range(most):
            self._scatter = (self._scatter + _GOLDEN) % _WORD
            places.append(self._place + (self._scatter * left >> _BITS))
        for place in sorted(set(places)):
            if state[order[place]] == waiting and not self._is_queued(order[place]):
                yield order[place]

    def _is_queued(self, job: int) -> bool:
        return job in self._first or job in self._last or job in self._alone

    def before(self, job: int, state: bytearray, waiting: int) -> int:
        """Say how many jobs come before this one, which waits; `state` and `waiting` as for `next`."""
        for place, queue in ((0, self._alone), (len(self._alone), self._first)):
            if job in queue:
                return place + list(queue).index(job)
        early = len(self._alone) + len(self._first)
        line = self.jobs
        if job in self._order:
            line = self._order[: self._order.index(job)]
        elif job not in self._last:
            line = self.jobs[: bisect_left(self.jobs, job)]
        queued = self._alone.keys() | self._first.keys() | self._last.keys()
        fresh = sum(state[other] == waiting and other not in queued for other in line)
        return early + fresh + (list(self._last).index(job) if job in self._last else 0)

    def without(self, jobs: Collection[int]) -> Queues:
        """Give the same queues without these jobs, and without the order that was given to fresh ones."""
        other = copy(self)
        other._order, other._place = (), 0
        other._alone, other._first = _left(self._alone, jobs), _left(self._first, jobs)
        other._last = _left(self._last, jobs)
        other.hopeless, other.unwanted = _left(self.hopeless, jobs), _left(self.unwanted, jobs)
        return other

    def snapshot(self, without: Collection[int]) -> list[list[int]]:
        """Give the queues without these jobs."""
        queues = (self._alone, self._first, self._last, self.hopeless, self.unwanted)
        return [[job for job in queue if job not in without] for queue in queues]


def _left(queue: OrderedDict[int, Avoid], jobs: Collection[int]) -> OrderedDict[int, Avoid]:
    return OrderedDict((job, avoid) for job, avoid in queue.items() if job not in jobs)
