"""How long a job will take: from what was learned of the batch, and from what its owner said.

Pure, and the same for the same successes in the same order, whenever it is asked. What is learned is a
sample, so that a million jobs cost little: all at first, then ever fewer of the old ones, and always the
newest. From it a regression (see `regression`) is made when somebody asks and enough has come in since.

What the jobs file says (`expect:`) holds until a few jobs have succeeded. From then on it is a scale: what is
learned is how many times as long as they should jobs take, and on what that depends. So a guess that is wrong
by a factor, or for some of the jobs, is put right, and one that is right makes the bound tight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log

from pisa_fab.regression import Model, fit

ENOUGH = 3  # successes from which on something is known
ENOUGH_TO_CORRECT = 5  # what the jobs file says
SAMPLE = 384  # at most so many, all over the batch
NEWEST = 96  # and so many of the last
GROWTH = 20  # a new regression when a twentieth more has come in, or
MOST_NEW = 4096  # so many
SHORTEST = 0.001  # seconds; what is shorter is taken for it
# No job is expected to take more than so many times the longest that was learned, or less than a thousandth
# of the shortest. From fib(20) to fib(39) is such a factor; on the way to more, more will have been learned.
FURTHEST_UP = log(10_000.0)
FURTHEST_DOWN = log(1_000.0)
LOOKED_AT = 600  # jobs of which the sum over a batch is taken
_GOLDEN = 2654435769  # 2**32 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4)
_WORD = 1 << 32

Arguments = Mapping[str, str | None]
Given = Callable[[Arguments], float | None]


@dataclass(frozen=True, slots=True)
class Expected:
    """How long a job is expected to take, in seconds.

    Attributes:
        seconds: in the mean over jobs like this one, so that sums are right.
        at_most: about 95 % of jobs like this one keep it; at least `seconds`.
        hunch: as `seconds`, with what is only a trend carried on to where nothing was seen as if it were
            certain. Sums of that may be absurd; for beginning with the longest it is the better guess.
    """

    seconds: float
    at_most: float
    hunch: float


@dataclass(frozen=True, slots=True)
class Work:
    """What many jobs are expected to take.

    Attributes:
        seconds: all of them, one after the other.
        longest: the longest of those that were looked at takes at most so long.
        jobs: how many they are.
    """

    seconds: float
    longest: float
    jobs: int


class Forecast:
    """What was learned of one batch.

    Attributes:
        given: what the jobs file says of a job with these arguments, in seconds; may be set at any time.
        learned: how many successes came in.
        version: as long as it is the same, and `given` too, so is what is expected of a job.
    """

    def __init__(self, given: Given | None = None) -> None:
        self.given = given
        self.learned = 0
        self.version = 0
        self._sample: list[tuple[int, Arguments, float]] = []
        self._below = _WORD  # a success is sampled when its number, scattered over 32 bits, is below
        self._newest: deque[tuple[int, Arguments, float]] = deque(maxlen=NEWEST)
        self._next = ENOUGH
        self._taken: tuple[list[tuple[int, Arguments, float]], list[tuple[int, Arguments, float]]] | None = (
            None
        )
        self._fitted: tuple[object, _Fitted] | None = None  # of what was taken, and the regression

    def __getstate__(self) -> dict[str, object]:
        """Give what was learned; what the jobs file says and the regression are made anew."""
        return {**vars(self), "given": None, "_fitted": None}

    def learn(self, arguments: Arguments, seconds: float) -> None:
        """Take in a success that ran so many seconds, without its pauses; what is no time is left out."""
        if not 0 <= seconds < inf:
            return
        self.learned = learned = self.learned + 1
        if seconds < SHORTEST:
            seconds = SHORTEST
        self._newest.append((learned, arguments, seconds))
        if learned * _GOLDEN % _WORD < self._below:
            self._sample.append((learned, dict(arguments), seconds))  # looked up while they are at hand
            if len(self._sample) > SAMPLE:
                self._below //= 2
                self._sample = [old for old in self._sample if old[0] * _GOLDEN % _WORD < self._below]
        if self.learned >= self._next:
            # Taken here and not where it is used, so that it does not matter when anybody asks.
            self._taken = self._sample[:], list(self._newest)
            self.version += 1
            self._next = self.learned + min(MOST_NEW, max(1, self.learned // GROWTH))

    def expect(self, arguments: Arguments) -> Expected | None:
        """Say how long a job with these arguments will take, None while too little is known.

        Until something was learned, what the jobs file says is the bound, too.
        """
        given = self.given(arguments) if self.given is not None else None
        fitted = self._fit()
        if fitted is None or (given is not None and self.learned < ENOUGH_TO_CORRECT):
            return Expected(given, given, given) if given is not None else None
        return fitted.expect(arguments, given)

    def left(self, arguments: Arguments, ran: float) -> float | None:
        """Say how long a job still needs that ran for so many seconds; None while too little is known.

        One that has taken longer than expected needs half of what is left to its bound, and beyond that a
        tenth of what it has taken: the longer it ran, the longer it will, as with all heavy tails.
        """
        expected = self.expect(arguments)
        if expected is None:
            return None
        return max(expected.seconds - ran, (expected.at_most - ran) / 2, 0.1 * ran)

    def total(
        self, jobs: Sequence[int], arguments: Callable[[int], Arguments], most: int = LOOKED_AT
    ) -> Work | None:
        """Estimate what all these jobs take; None while too little is known.

        `arguments` gives those of a job by its number. Of more than `most` jobs so many are looked at, which
        lie evenly but never in step with a sweep: the multiples of the golden ratio.
        """
        count = len(jobs)
        if not count:
            return Work(0.0, 0.0, 0)
        if count <= most:
            chosen: Sequence[int] = jobs
        else:
            chosen = [jobs[i * _GOLDEN % _WORD * count // _WORD] for i in range(1, most + 1)]
        seconds = longest = 0.0
        for job in chosen:
            expected = self.expect(arguments(job))
            if expected is None:
                return None
            seconds += expected.seconds
            longest = max(longest, expected.at_most)
        return Work(seconds * count / len(chosen), longest, count)

    def _fit(self) -> _Fitted | None:
        """Give the regression of what was taken last."""
        if self._taken is None:
            return None
        if self._fitted is None or self._fitted[0] is not self._taken:
            sample, newest = self._taken
            oldest = newest[0][0]
            entries = [entry for entry in sample if entry[0] < oldest] + newest
            self._fitted = self._taken, _Fitted([(dict(a), seconds) for _, a, seconds in entries], self.given)
        return self._fitted[1]


class _Fitted:
    """A regression of the logarithms of run times, or of how many times as long as given."""

    def __init__(self, entries: Sequence[tuple[Arguments, float]], given: Given | None) -> None:
        said = [given(arguments) if given is not None else None for arguments, _ in entries]
        self._relative = all(said)
        logs = [
            log(seconds) - (log(told) if self._relative and told else 0.0)
            for (_, seconds), told in zip(entries, said, strict=True)
        ]
        self._least, self._most = min(logs) - FURTHEST_DOWN, max(logs) + FURTHEST_UP
        self.model: Model = fit([arguments for arguments, _ in entries], logs)

    def expect(self, arguments: Arguments, given: float | None) -> Expected:
        estimate = self.model.estimate(arguments)
        unit = given if self._relative and given else 1.0
        middle, hunch = (
            unit * exp(min(max(y, self._least), self._most)) for y in (estimate.log, estimate.hunch)
        )
        seconds = middle * estimate.smear
        return Expected(seconds, max(seconds, middle * exp(estimate.width)), hunch * estimate.smear)
