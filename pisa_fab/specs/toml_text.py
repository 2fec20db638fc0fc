"""TOML -> data, with a place for its keys as far as PISA's task files have them.

`tomllib` says where a text is not TOML, but not where a key of good TOML stands. So places are looked up in
the text: keys at the top, and those of the tables in an array, inline (`[{...}, {...}]`) or not (`[[name]]`).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pisa_fab.errors import Position, SpecError
from pisa_fab.specs.text import Document, Keys, place, read_text

_WHERE = re.compile(r" *\(at (?:line (\d+), column (\d+)|end of document)\)$")
_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[{}]')


def parse_toml(path: Path) -> Document:
    """Read a TOML file; numbers with a point stay the text that they are. Raises SpecError."""
    text = read_text(path)
    if not text.strip():
        raise SpecError(Position(path, 1, 1), "the file is empty")
    try:
        data = tomllib.loads(text, parse_float=str)
    except tomllib.TOMLDecodeError as error:
        where = _WHERE.search(str(error))
        line, column = (int(where[1]), int(where[2])) if where and where[1] else place(text, len(text))
        problem = _WHERE.sub("", str(error))
        problem = f"not valid TOML: {problem[:1].lower()}{problem[1:]}"
        raise SpecError(Position(path, line, column), problem) from error
    except RecursionError as error:
        raise SpecError(Position(path, 1, 1), "nested too deeply") from error

    def locate(keys: Keys, key: bool) -> tuple[int, int]:
        return place(text, _find(text, keys, key))

    return Document(path, data, locate)


def _find(text: str, keys: Keys, key: bool) -> int:
    """Give the offset of a part or its key, or of the nearest thing around it that is found."""
    at, end = 0, len(text)
    for depth, step in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(step, int):
            table = _nth_table(text, str(keys[depth - 1]), at, step)
            if table is None:
                return at
            at, end = table
        else:
            name = re.escape(step)
            start = r"^[ \t]*" if depth == 0 else r"[{,\s]"
            found = re.compile(
                rf"{start}(?:(?P<key>{name}|\"{name}\"|'{name}')[ \t]*=[ \t]*|\[\[ *(?P<table>{name}) *\]\])",
                re.MULTILINE,
            ).search(text, at, end)
            if found is None:
                return at
            group = "key" if found["key"] else "table"
            at = found.start(group) if key or not last or group == "table" else found.end()
    return at


def _nth_table(text: str, name: str, start: int, index: int) -> tuple[int, int] | None:
    """Give where the table with this index in the array `name` begins and ends."""
    headers = [match.start() for match in re.finditer(rf"^[ \t]*\[\[ *{re.escape(name)} *\]\]", text, re.M)]
    if headers:
        return [*zip(headers, [*headers[1:], len(text)], strict=True)][index]
    braces = [token for token in _TOKEN.finditer(text, start) if token[0] in "{}"]
    begins = [token.start() for token in braces if token[0] == "{"]
    ends = [token.end() for token in braces if token[0] == "}"]
    return (begins[index], ends[index]) if index < min(len(begins), len(ends)) else None
