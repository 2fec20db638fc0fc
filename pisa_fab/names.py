"""Many names in few characters: `pc01 pc02 pc03 pc07` as `pc[01-03,07]`, as a cluster file may write them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

FEW = 8  # names that are written out

PARTS = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def listed(names: Collection[str]) -> str:
    """Write a few names one by one, and many folded."""
    return ", ".join(names) if len(names) <= FEW else folded(names)


def folded(names: Iterable[str]) -> str:
    """Write names with the numbers in them in ranges; what has no numbers stands by itself."""
    groups: dict[tuple[str, str, int] | str, list[int]] = {}
    for name in names:
        match = PARTS.fullmatch(name)
        if match is None:
            groups.setdefault(name, [])
        else:
            before, digits, after = match.groups()
            groups.setdefault((before, after, len(digits)), []).append(int(digits))
    return ", ".join(
        key if isinstance(key, str) else _group(*key, sorted(set(numbers))) for key, numbers in groups.items()
    )


def _group(before: str, after: str, width: int, numbers: list[int]) -> str:
    """Write the names of one kind."""
    if len(numbers) == 1:
        return f"{before}{numbers[0]:0{width}d}{after}"
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = (
        f"{first:0{width}d}" if first == last else f"{first:0{width}d}-{last:0{width}d}"
        for first, last in ranges
    )
    return f"{before}[{','.join(texts)}]{after}"
