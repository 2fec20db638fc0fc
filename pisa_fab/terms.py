"""What run times may depend on, computed from a job's arguments, and what a bound is widened by.

A `Term` is a number for a regression: a line, a bend, the effect of a category, a product. A `Guard` looks
whether a job is unlike all that was seen. What is chosen of them, and how, is in `regression`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Protocol

Arguments = Mapping[str, str | None]

CURVED = 0.7  # the deviation where a number is half its range beyond what was seen
FURTHEST = 2.0  # such halves; further away it does not grow
Z95 = 1.6448536269514722  # the 95 % quantile of the normal distribution


def number(text: str | None) -> float | None:
    """Read a number as Python does, `1e3` and `0.1` too; None for anything else, and for nan and inf."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def student95(freedom: float) -> float:
    """Give the 95 % quantile of Student's t distribution, good to 1 % from 3 degrees of freedom on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z, v = Z95, freedom
    first = (z**3 + z) / (4 * v)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + first + second + third


# ----------------------------------------------------------------------------------------------------
# Terms
# ----------------------------------------------------------------------------------------------------


class Term(Protocol):
    """Something that is computed from a job's arguments."""

    def value(self, arguments: Arguments) -> float:
        """Give its value; 0 where the argument is missing."""


@dataclass(frozen=True, slots=True)
class Line:
    """A number, or its logarithm, moved and scaled so that what was seen is about -1 to 1."""

    column: str
    logarithmic: bool
    middle: float
    scale: float
    least: float  # the smallest that was seen: what is not positive is taken for it by the logarithm

    def value(self, arguments: Arguments) -> float:
        """Give its value."""
        x = number(arguments.get(self.column))
        if x is None:
            return 0.0
        if self.logarithmic:
            x = log(x if x > 0 else self.least)
        return (x - self.middle) / self.scale


@dataclass(frozen=True, slots=True)
class Bend:
    """What a line is above a knot; 0 below."""

    line: Line
    knot: float

    def value(self, arguments: Arguments) -> float:
        """Give its value."""
        return max(0.0, self.line.value(arguments) - self.knot)


@dataclass(frozen=True, slots=True)
class Level:
    """The effect of each value of a column.

    Attributes:
        column: of the sweep.
        effects: by value.
        between: their variance, which is what the effect of a value not yet seen may have.
    """

    column: str
    effects: Mapping[str | None, float]
    between: float

    @property
    def doubt(self) -> float:
        """The variance for a value not yet seen: more when it was found from few values."""
        return self.between * (student95(max(3.0, len(self.effects) - 1.0)) / Z95) ** 2

    def value(self, arguments: Arguments) -> float:
        """Give its value."""
        return self.effects.get(arguments.get(self.column), 0.0)


@dataclass(frozen=True, slots=True)
class Within:
    """A term that counts only where a column has a certain value."""

    column: str
    level: str | None
    term: Line | Bend

    def value(self, arguments: Arguments) -> float:
        """Give its value."""
        return self.term.value(arguments) if arguments.get(self.column) == self.level else 0.0


@dataclass(frozen=True, slots=True)
class Both:
    """The product of two numbers."""

    one: Line
    other: Line

    def value(self, arguments: Arguments) -> float:
        """Give its value."""
        return self.one.value(arguments) * self.other.value(arguments)


# ----------------------------------------------------------------------------------------------------
# Guards
# ----------------------------------------------------------------------------------------------------


class Guard(Protocol):
    """Looks at one column, whether the model has a term of it or not."""

    def doubt(self, arguments: Arguments) -> float:
        """Give the variance that is added; 0 for what is like what was seen."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """A number outside of the range that was seen: a line may bend there.

    The further, in halves of the range, the more: at first with the square, as a curvature would show.
    """

    column: str
    logarithmic: bool
    least: float
    most: float
    half: float

    def doubt(self, arguments: Arguments) -> float:
        """Give the variance that is added."""
        x = self._read(arguments)
        if x is None or self.least <= x <= self.most:
            return 0.0
        distance = min(max(self.least - x, x - self.most) / self.half, FURTHEST)
        return float((CURVED * min(distance, distance * distance)) ** 2)

    def moved(self, arguments: Arguments, ranges: float) -> str | None:
        """Give what the number would be if it were no further outside than so many ranges, None if it is."""
        x, room = self._read(arguments), 2 * ranges * self.half
        if x is None or self.least - room <= x <= self.most + room:
            return None
        x = self.least - room if x < self.least else self.most + room
        return repr(exp(x) if self.logarithmic else x)

    def _read(self, arguments: Arguments) -> float | None:
        """Give the number on its scale, None where it has no place there."""
        x = number(arguments.get(self.column))
        if x is None or not self.logarithmic:
            return x
        return log(x) if x > 0 else None


@dataclass(frozen=True, slots=True)
class New:
    """A value that was not seen, of a column of which the same few come again and again."""

    column: str
    seen: frozenset[str | None]

    def doubt(self, arguments: Arguments) -> float:
        """Give the variance that is added: the more values made no difference, the less."""
        return 0.0 if arguments.get(self.column) in self.seen else 1.0 / len(self.seen) ** 2


def beyond(name: str, known: Sequence[float]) -> Beyond:
    """Make the guard of a number: on the scale, plain or logarithmic, on which its values lie more evenly."""
    plain = Beyond(name, False, known[0], known[-1], (known[-1] - known[0]) / 2)
    if known[0] <= 0:
        return plain
    median, low, high = known[len(known) // 2], log(known[0]), log(known[-1])
    skew = abs(median - (known[0] + known[-1]) / 2) / plain.half
    half = (high - low) / 2
    return plain if skew <= abs(log(median) - low - half) / half else Beyond(name, True, low, high, half)
