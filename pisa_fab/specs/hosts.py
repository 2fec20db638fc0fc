"""Names of hosts as they are written: ranges `pc[01-34]`, and `user@host:port`."""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

from pisa_fab.specs.problems import FieldError, quoted

_MOST_HOSTS = 100_000
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_ITEM = re.compile(r"[A-Za-z0-9_.-]+")
_ADDRESS_6 = re.compile(r"\[([0-9A-Fa-f:.]+:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9]+)?)\](?::([0-9]+))?")


class HostName(NamedTuple):
    """What `user@host:port` says; None for what it leaves out."""

    host: str
    user: str | None
    port: int | None


def expand(text: str) -> list[str]:
    """Expand every `[01-34]`, `[01-03,07]`; the last varies fastest. Raises FieldError.

    Numbers are as wide as the first number of the range when that begins with a 0.
    """
    parts = _BRACKETS.split(text)
    if any("[" in part or "]" in part for part in parts[::2]):
        raise FieldError(f"has a bracket too many or too few: {quoted(text)}")
    choices: list[list[str]] = []
    total = 1
    for inside in parts[1::2]:
        sizes = [_size(item.strip(), text) for item in inside.split(",")]
        total *= sum(sizes)
        if total > _MOST_HOSTS:
            raise FieldError(f"names more than {_MOST_HOSTS:,} hosts: {quoted(text)}")
        choices.append([name for item in inside.split(",") for name in _names(item.strip())])
    fixed = parts[::2]
    return [
        fixed[0] + "".join(name + rest for name, rest in zip(names, fixed[1:], strict=True))
        for names in product(*choices)
    ]


def _size(item: str, text: str) -> int:
    match = _RANGE.fullmatch(item)
    if match is None:
        # A text with a dash between digits is a range that was meant and not made.
        if not _ITEM.fullmatch(item) or re.match("[0-9]+-", item):
            problem = f"has {quoted(item)} in brackets, which is no number, name or range: {quoted(text)}"
            raise FieldError(problem, "write pc[01-34] or pc[01-03,07]")
        return 1
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise FieldError(f"has the range {item}, which ends before it begins: {quoted(text)}")
    return last - first + 1


def _names(item: str) -> list[str]:
    match = _RANGE.fullmatch(item)
    if match is None:
        return [item]
    width = len(match[1]) if match[1].startswith("0") else 1
    return [f"{n:0{width}d}" for n in range(int(match[1]), int(match[2]) + 1)]


def split_address(text: str) -> HostName:
    """Read `host`, `user@host`, `host:port` or all of it. Raises FieldError."""
    user, at, rest = text.rpartition("@")
    if (address := _ADDRESS_6.fullmatch(rest)) is not None:
        host, port = address[1], address[2]
    elif rest.count(":") > 1:
        host, port = rest, None  # an IPv6 address without brackets
    else:
        host, _, port = rest.partition(":") if ":" in rest else (rest, "", None)
    if at and (not user or user.startswith("-") or not user.isprintable() or " " in user):
        raise FieldError(f"has no good user name before the @: {quoted(text)}")
    if not host or host.startswith("-") or not host.isprintable() or re.search(r"[\s/@]", host):
        raise FieldError(f"is no name of a host: {quoted(text)}")
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise FieldError(f"has no good port after the colon: {quoted(text)}")
    return HostName(host, user or None, int(port) if port else None)


def expand_addresses(text: str) -> list[HostName]:
    """Give every host that a text of the cluster file names. Raises FieldError."""
    if _ADDRESS_6.fullmatch(text.rpartition("@")[2]):
        return [split_address(text)]
    return [split_address(name) for name in expand(text)]
