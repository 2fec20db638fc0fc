"""YAML -> data in which every scalar is text as it was written, with a place for every key and value.

Built on the parser's events and not on PyYAML's constructors: no text ever turns into a number, a date or a
truth value, a key that comes twice is seen, and an empty value is told from an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pisa_fab.errors import Position, SpecError
from pisa_fab.specs.problems import quoted
from pisa_fab.specs.text import Document, Keys, place, read_text

# The stubs of PyYAML know neither tag nor anchor, and make every mark optional.
_Event = Any

_MAX_DEPTH = 50
_NO_VALUE = 'write "" for an empty text'
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))

# A part of what the parser says -> what most probably helps.
_HINTS = (
    ("mapping values are not allowed", 'check the indentation; a text with ": " in it needs quotes'),
    ("alias", "a text that begins with * needs quotes"),
    ("anchor", "a text that begins with & needs quotes"),
    ("escape", "a backslash in double quotes is written twice; single quotes leave it alone"),
    ("end of stream", "a quote or bracket is not closed"),
    ("expected ','", "a bracket is not closed, or a comma is missing"),
    ("did not find expected", "check the indentation of this line and the one above"),
)


@dataclass(frozen=True, slots=True)
class _Node:
    """A value, where it starts, and the nodes inside of it (with the place of the key, in a mapping)."""

    data: Any
    line: int
    column: int
    items: tuple[_Node, ...] = ()
    entries: dict[str, tuple[int, int, _Node]] | None = None


def parse_yaml(path: Path) -> Document:
    """Read a YAML file. Raises SpecError for what is not YAML, or YAML that is not supported."""
    text = read_text(path)
    # libyaml's parser where it is there: ten times as fast. The events are the same.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        root = _Reader(path, text, yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(path, text, error) from error
    except yaml.reader.ReaderError as error:
        found = _NOT_PRINTABLE.search(text)
        line, column = place(text, found.start() if found else 0)
        hint = 'write it as an escape in double quotes, such as "\\x07"'
        problem = "not valid YAML: a control character"
        raise SpecError(Position(path, line, column), problem, hint) from error

    def locate(keys: Keys, key: bool) -> tuple[int, int]:
        return _locate(root, keys, key)

    return Document(path, root.data, locate)


def _locate(node: _Node, keys: Keys, key: bool) -> tuple[int, int]:
    found = node.line, node.column
    for step in keys:
        if isinstance(step, int):
            if step >= len(node.items):
                break
            node = node.items[step]
            found = node.line, node.column
        else:
            if node.entries is None or step not in node.entries:
                break
            line, column, node = node.entries[step]
            found = (line, column) if key else (node.line, node.column)
    return found


def _not_yaml(path: Path, text: str, error: yaml.MarkedYAMLError) -> SpecError:
    mark = error.problem_mark or error.context_mark
    words = f"{error.context or ''} {error.problem or ''}"
    at_end = mark is not None and mark.index >= len(text.rstrip())
    if error.context_mark and (at_end or "escape" in words):
        mark = error.context_mark  # not the end of the file, but the bracket or quote that is open there
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    hint = next((hint for part, hint in _HINTS if part in words), "")
    if "cannot start any token" in words:
        tab = mark is not None and text.splitlines()[mark.line][mark.column : mark.column + 1] == "\t"
        hint = "indent with blanks, not with tabs" if tab else "put the text in quotes"
    return SpecError(Position(path, line, column), f"not valid YAML: {error.problem}", hint)


class _Reader:
    """Turns the parser's events into nodes."""

    def __init__(self, path: Path, text: str, events: Iterator[_Event]) -> None:
        self._path, self._text, self._events = path, text, events
        self._anchors: dict[str, _Node] = {}

    def document(self) -> _Node:
        """Read the one document of the file."""
        next(self._events)  # the start of the stream
        first = next(self._events)
        if isinstance(first, yaml.StreamEndEvent):
            raise SpecError(Position(self._path, 1, 1), "the file is empty")
        root = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        second = next(self._events)
        if not isinstance(second, yaml.StreamEndEvent):
            raise self._wrong(second, "a second document begins here", "one file holds one document")
        return root

    def _wrong(self, event: _Event, problem: str, hint: str = "") -> SpecError:
        return SpecError(Position(self._path, *_start(event)), problem, hint)

    def _node(self, event: _Event, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                hint = "a text that begins with * needs quotes"
                raise self._wrong(event, f"nothing before this is marked &{event.anchor}", hint)
            return self._anchors[event.anchor]
        if depth > _MAX_DEPTH:
            raise self._wrong(event, "nested too deeply")
        if event.tag not in _TAGS:
            hint = "values are text as they are written; a text that begins with ! needs quotes"
            raise self._wrong(event, f"the tag {event.tag} is not supported", hint)
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(event.value, *_start(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = self._mapping(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _sequence(self, start: _Event, depth: int) -> _Node:
        items: list[_Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            if _is_empty(event):
                raise self._wrong(event, f"item {len(items) + 1} of the list has no value", _NO_VALUE)
            items.append(self._node(event, depth + 1))
        return _Node([item.data for item in items], *_start(start), items=tuple(items))

    def _mapping(self, start: _Event, depth: int) -> _Node:
        entries: dict[str, tuple[int, int, _Node]] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            name = self._key(key, entries)
            value = next(self._events)
            if _is_empty(value):
                raise self._wrong(key, f"{quoted(name)} has no value", self._no_value_hint(start, key))
            entries[name] = *_start(key), self._node(value, depth + 1)
        data = {name: node.data for name, (_, _, node) in entries.items()}
        return _Node(data, *_start(start), entries=entries)

    def _key(self, key: _Event, entries: dict[str, tuple[int, int, _Node]]) -> str:
        if not isinstance(key, yaml.ScalarEvent):
            raise self._wrong(key, "a key must be a text", "a text that begins with [, { or * needs quotes")
        if _is_empty(key):
            raise self._wrong(key, "a key is missing before the colon")
        if key.value == "<<" and not key.style:
            raise self._wrong(key, "merge keys (<<) are not supported", "write the keys out")
        if key.value in entries:
            first = entries[key.value][0]
            raise self._wrong(key, f"{quoted(key.value)} is there twice", f"the first is in line {first}")
        return str(key.value)

    def _no_value_hint(self, mapping: _Event, key: _Event) -> str:
        if mapping.start_mark.index == key.start_mark.index - 1:  # {name
            return f'"{{{key.value}}}" as a text needs quotes'
        return _NO_VALUE


def _start(event: _Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _is_empty(event: _Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and not event.value and not event.style and event.tag is None
