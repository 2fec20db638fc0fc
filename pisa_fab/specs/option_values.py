"""Pure: what stands in one `--sweep KEY=VALUES` -> a key of `sweep` and its value, as a jobs file has them.

A text in double quotes is always that text. Without quotes, what looks like a range or a kind of values
must be one: a slip of the keyboard is not to become an argument of a thousand jobs.
"""

from __future__ import annotations

import re

from pisa_fab.ranges import Steps, number
from pisa_fab.specs.problems import FieldError, quoted
from pisa_fab.specs.yaml_writing import Data

# The kinds of values that are written `KIND:...`, as in a jobs file.
KINDS = ("linspace", "logspace", "glob", "lines", "flag")

# A range that stands beside other values is written out; a longer one stands alone.
_MOST_WRITTEN_OUT = 10_000
_BOTH = ["true", "false"]


def read_sweep_option(text: str) -> tuple[str, Data]:
    """Read `-n=0..40`, `--mode=fast,exact`, `--n==1,2`, `x=glob:data/*.csv`. Raises FieldError.

    `csv:FILE` gives the key `csv` and the name of a file with a column for each key.
    """
    if text.startswith("csv:"):
        return "csv", _rest("csv", text.removeprefix("csv:"), "points.csv")
    key, found, values = text.partition("=")
    if key.startswith("-") and values.startswith("="):
        key, values = f"{key.rstrip()}=", values[1:]
    key = key.strip()
    if not key.strip("-=") or re.search(r"\s", key):
        raise FieldError("has no name of an option or variable before the =", 'write "-n=0..40"')
    if not found or not values.strip():
        tip = f'write "{key.rstrip("=")}=0..40" or "{key.rstrip("=")}=fast,exact"'
        if key.startswith("--") and not key.endswith("="):
            tip += f'; "{key}=flag" runs with it and without it'
        raise FieldError("has no values", tip)
    return key, read_values(values)


def read_values(text: str) -> Data:
    """Read what follows the `=`. Raises FieldError."""
    kind, colon, rest = text.strip().partition(":")
    if kind == "flag" and not colon:
        return {"flag": _BOTH}
    if colon and kind in KINDS:
        return {kind: _of_kind(kind, rest)}
    if colon and (meant := _nearly(kind)):
        raise FieldError(f"{quoted(kind + ':')} is no kind of values", f"did you mean {quoted(meant + ':')}?")
    items = _split(text)
    if len(items) == 1:
        return _single(*items[0])
    return [value for item in items for value in _written_out(*item)]


def _nearly(kind: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(kind, KINDS, n=1, cutoff=0.85) if kind.isalpha() else []
    return close[0] if close else ""


def _of_kind(kind: str, rest: str) -> Data:
    if kind == "glob":
        return _rest(kind, rest, "data/*.csv")
    if kind == "lines":
        return _rest(kind, rest, "names.txt")
    values = [value for value, _ in _split(rest)] if rest.strip() else []
    if kind == "flag":
        return values or _BOTH
    if len(values) != 3:
        raise FieldError(f"{kind}: is followed by first, last, how many", f"write {kind}:1,100,5")
    return values


def _rest(kind: str, rest: str, example: str) -> str:
    """Give a pattern or a file's name, which is taken as it is."""
    if not rest.strip():
        raise FieldError(f"{kind}: is followed by nothing", f"write {kind}:{example}")
    return rest.strip()


def _single(value: str, is_quoted: bool) -> Data:
    ends = None if is_quoted else _ends(value)
    return value if ends is None else dict(zip(("from", "to", "step"), ends, strict=False))


def _written_out(value: str, is_quoted: bool) -> list[str]:
    ends = None if is_quoted else _ends(value)
    if ends is None:
        return [value]
    steps = _steps(ends, value)
    if len(steps) > _MOST_WRITTEN_OUT:
        problem = f"the range {quoted(value)} has {len(steps):,} values, too many beside others"
        raise FieldError(problem, f"at most {_MOST_WRITTEN_OUT:,}; or let it stand alone")
    return list(steps)


def _ends(value: str) -> list[str] | None:
    """Give the two or three numbers of a range; None for a text that is none. Raises FieldError."""
    if ".." not in value or "/" in value:  # ../data is a path
        return None
    parts = value.split("..")
    try:
        if "..." in value or len(parts) not in (2, 3):
            raise ValueError("is no number")
        for part in parts:
            number(part)
    except ValueError as error:
        problem = f"{quoted(value)} is no range of numbers"
        tip = f"write 0..40 or 0..1..0.1; a text goes in quotes of its own: '{quoted(value)}'"
        raise FieldError(problem, tip) from error
    _steps(parts, value)
    return parts


def _steps(parts: list[str], value: str) -> Steps:
    start, stop, step = (number(part) for part in (*parts, "1")[:3])
    try:
        return Steps(start, stop, step)
    except ValueError as error:
        tip = f"write {parts[0]}..{parts[1]}..-1" if stop < start and len(parts) == 2 else ""
        raise FieldError(f"{quoted(value)}: {error}", tip) from error


_ITEM = re.compile(r'[ \t]*(?:"(?P<quoted>(?:[^"]|"")*)"[ \t]*(?=,|$)|(?P<plain>[^,]*))', re.DOTALL)


def _split(text: str) -> list[tuple[str, bool]]:
    """Split at commas as in CSV; give each value, and whether it was quoted. A quote in quotes is doubled.

    Blanks around a value are not part of it, unless it is quoted. Raises FieldError.
    """
    items: list[tuple[str, bool]] = []
    at = 0
    while at <= len(text):
        match = _ITEM.match(text, at)
        assert match is not None  # both branches match nothing at all
        if match["quoted"] is not None:
            items.append((match["quoted"].replace('""', '"'), True))
        else:
            items.append((_unquoted(match["plain"].strip(" \t"), len(items) + 1), False))
        at = match.end() + 1
    return items


def _unquoted(value: str, position: int) -> str:
    if not value:
        raise FieldError(f"value {position} is empty", 'write "" for an empty text')
    if value.startswith('"'):
        raise FieldError(f"value {position} has a quote that is not closed", 'a " in quotes is written twice')
    return value
