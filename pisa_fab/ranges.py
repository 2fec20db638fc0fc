"""Pure: the values of a sweep that are computed: ranges, linspace, logspace, of exact numbers.

Each is a sequence of texts that is not there until somebody asks; which arguments get them is `sweep`'s
business, how a jobs file writes them that of `specs`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, localcontext
from sys import maxsize
from typing import overload

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


def number(text: str) -> Decimal:
    """Read a decimal number, in scientific notation or not. Raises ValueError in words for the user."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("is not a number")
    value = Decimal(text)
    if len(text) > 100 or abs(value.adjusted()) > 100:
        raise ValueError("is too large or too small a number")
    return value


class _Computed(Sequence[str]):
    """Values that are computed when they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._value(i) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._value(index % self._count)

    def _value(self, index: int) -> str:
        raise NotImplementedError


class Steps(_Computed):
    """From `start` in steps, never past `stop`; exact.

    All values have as many decimals as the one of `start` and `step` that has more. Raises ValueError, in
    words for the user, when no value results or more than `sys.maxsize`.
    """

    def __init__(self, start: Decimal, stop: Decimal, step: Decimal) -> None:
        if not step:
            raise ValueError("step must not be 0")
        if (stop - start) * step < 0:
            relation, sign = ("less", "negative") if stop < start else ("more", "positive")
            raise ValueError(f"the last value is {relation} than the first, so step must be {sign}")
        self._decimals = max(_decimals(start), _decimals(step))
        fine = max(self._decimals, _decimals(stop))
        first, last, by = (_scaled(value, fine) for value in (start, stop, step))
        super().__init__((last - first) // by + 1)
        if self._count > maxsize:
            raise ValueError("has more values than can be counted")
        self._first, self._by = _scaled(start, self._decimals), _scaled(step, self._decimals)

    def _value(self, index: int) -> str:
        value = self._first + index * self._by
        if not self._decimals:
            return str(value)
        whole, part = divmod(abs(value), 10**self._decimals)
        return f"{'-' if value < 0 else ''}{whole}.{part:0{self._decimals}d}"


class Linspace(_Computed):
    """`count` evenly spaced values from `start` to `stop`, both included: the shortest text of the float."""

    def __init__(self, start: Decimal, stop: Decimal, count: int) -> None:
        decimals = max(_decimals(start), _decimals(stop))
        super().__init__(count)
        self._first, self._last = _scaled(start, decimals), _scaled(stop, decimals)
        self._gaps = max(count - 1, 1)
        self._divisor = self._gaps * 10**decimals

    def _value(self, index: int) -> str:
        # Whole numbers divided once: the result is the float nearest to the exact value.
        return repr((self._first * (self._gaps - index) + self._last * index) / self._divisor)


class Logspace(_Computed):
    """`count` values from `start` to `stop`, both included and above 0, each the same multiple of the last.

    `start` and `stop` are the values themselves, not their logarithms (as NumPy's `geomspace`).
    """

    def __init__(self, start: Decimal, stop: Decimal, count: int) -> None:
        super().__init__(count)
        self._start, self._stop = start, stop
        self._gaps = max(count - 1, 1)

    def _value(self, index: int) -> str:
        if index in (0, self._gaps):
            return repr(float(self._start if index == 0 else self._stop))
        with localcontext() as context:
            context.prec = 40  # far more than a float has, so that 10 to 1000 passes through 100.0
            exponent = self._start.ln() * (self._gaps - index) + self._stop.ln() * index
            return repr(float((exponent / self._gaps).exp()))


def _decimals(value: Decimal) -> int:
    return max(0, -int(value.as_tuple().exponent))


def _scaled(value: Decimal, decimals: int) -> int:
    """Give the value in units of 10^-decimals, where that is a whole number."""
    sign, digits, exponent = value.as_tuple()
    magnitude: int = int("".join(map(str, digits))) * 10 ** (int(exponent) + decimals)
    return -magnitude if sign else magnitude
