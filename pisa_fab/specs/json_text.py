"""JSON -> data, with a place for every key and value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pisa_fab.errors import Position, SpecError
from pisa_fab.specs.problems import quoted
from pisa_fab.specs.text import Document, Keys, place, read_text

_BLANK = re.compile(r"[ \t\r\n]*")


def parse_json(path: Path) -> Document:
    """Read a JSON file. Raises SpecError."""
    text = read_text(path)
    if not text.strip():
        raise SpecError(Position(path, 1, 1), "the file is empty")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        position = Position(path, error.lineno, error.colno)
        raise SpecError(position, f"not valid JSON: {_plain(error.msg)}") from error
    except RecursionError as error:
        raise SpecError(Position(path, 1, 1), "nested too deeply") from error
    offsets: dict[tuple[Keys, bool], int] = {}
    for keys, is_key, offset in _walk(text, _skip(text, 0), ()):
        if is_key and (keys, True) in offsets:
            line, _ = place(text, offsets[keys, True])
            problem = f"{quoted(str(keys[-1]))} is there twice"
            raise SpecError(Position(path, *place(text, offset)), problem, f"the first is in line {line}")
        offsets[keys, is_key] = offset

    def locate(keys: Keys, key: bool) -> tuple[int, int]:
        while (keys, False) not in offsets:
            keys = keys[:-1]
        return place(text, offsets.get((keys, key), offsets[keys, False]))

    return Document(path, data, locate)


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:]


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _walk(text: str, at: int, keys: Keys) -> Iterator[tuple[Keys, bool, int]]:
    """Give the offset of every part (True: of its key) of a text that is known to be JSON."""
    stack: list[Any] = []
    decode = json.JSONDecoder().raw_decode
    while True:
        # Here a value begins.
        yield keys, False, at
        opened = text[at] in "[{" and text[_skip(text, at + 1)] not in "]}"
        if opened:
            stack.append(text[at])
            keys = (*keys, -1)
            at += 1
        else:
            at = decode(text, at)[1]
            while stack and text[at := _skip(text, at)] in "]}":
                stack.pop()
                keys = keys[:-1]
                at += 1
            if not stack:
                return
            at += 1  # the comma
        at = _skip(text, at)
        if stack[-1] == "{":
            name, end = decode(text, at)
            keys = (*keys[:-1], name)
            yield keys, True, at
            at = _skip(text, _skip(text, end) + 1)
        else:
            keys = (*keys[:-1], int(keys[-1]) + 1)
