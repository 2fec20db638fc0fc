"""Pure: the keys of many jobs, eight bytes each, and which number each of them has.

A key is 16 hex digits to whoever sees it (see `sweep.Plan.keys`). What is made of a key, and when it gets its
number, is not known here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from sys import byteorder
from typing import overload

DIGITS = 16


class Keys(Sequence[str]):
    """Keys in order; `codes` has them as numbers of 64 bits."""

    __slots__ = ("codes",)

    def __init__(self, codes: array[int]) -> None:
        self.codes = codes

    @classmethod
    def of(cls, texts: Sequence[str]) -> Keys | None:
        """Give keys that are written out; None if any is not 16 small hex digits."""
        joined = "".join(texts)
        if any(len(text) != DIGITS for text in texts) or joined.strip("0123456789abcdef"):
            return None
        try:
            data = bytes.fromhex(joined)
        except ValueError:
            return None
        if data.hex() != joined:
            return None
        codes = array("Q", data)
        if byteorder == "little":
            codes.byteswap()
        return cls(codes)

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Keys: ...
    def __getitem__(self, index: int | slice) -> str | Keys:
        if isinstance(index, slice):
            return Keys(self.codes[index])
        return f"{self.codes[index]:016x}"

    def __iter__(self) -> Iterator[str]:
        return map("{:016x}".format, self.codes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            return self.codes == other.codes
        if isinstance(other, Sequence) and not isinstance(other, str):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a list: it would be long to make

    def __repr__(self) -> str:
        return f"Keys({list(self[:3])}{', ...' if len(self) > 3 else ''})"


class Numbers(Mapping[str, int]):
    """The number of every key: of pieces that each begin with a number and go on without a gap.

    A key that comes again has the number that it had last, as in a dict that is updated.
    """

    def __init__(self, pieces: Iterable[tuple[int, Sequence[str]]]) -> None:
        self._pieces = list(pieces)

    @cached_property
    def _by_code(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for first, keys in self._pieces:
            if isinstance(keys, Keys):
                found.update(zip(keys.codes, count(first)))
        return found

    @cached_property
    def _others(self) -> dict[str, int]:
        """The keys that look like none of ours, which another program may have written."""
        found: dict[str, int] = {}
        for first, keys in self._pieces:
            if not isinstance(keys, Keys):
                found.update(zip(keys, count(first)))
        return found

    def __getitem__(self, key: str) -> int:
        found = Keys.of([key])
        if key in self._others or found is None:
            return self._others[key]
        return self._by_code[found.codes[0]]

    def __iter__(self) -> Iterator[str]:
        yield from Keys(array("Q", self._by_code))
        yield from self._others

    def __len__(self) -> int:
        return len(self._by_code) + len(self._others)

    def __bool__(self) -> bool:
        return any(len(keys) for _, keys in self._pieces)

    def are_in_order(self, keys: Keys, next_number: int) -> bool:
        """Say whether these keys have the numbers 0, 1, ..., if new ones get `next_number` and so on.

        Nothing is looked up for that: every piece has to be a piece of them. No key is to have two numbers.
        """
        place = 0
        for first, known in self._pieces:
            if first != place or not isinstance(known, Keys):
                return False
            if known.codes[: len(keys) - place] != keys.codes[place : place + len(known)]:
                return False
            place += len(known)
            if place >= len(keys):
                return True
        return place == next_number

    def of_all(self, keys: Keys, next_number: int) -> array[int]:
        """Give the numbers of these keys in their order; those that have none get `next_number` and so on."""
        known, others = self._by_code, self._others
        numbers = array("q")
        for code in keys.codes:
            number = known.get(code)
            if number is None and others:
                number = others.get(f"{code:016x}")
            if number is None:
                number, next_number = next_number, next_number + 1
            numbers.append(number)
        return numbers
