"""The values of one column of the sweep: lists, ranges, files. Also the files of columns, `{csv: FILE}`.

What is computed stays lazy; what is read from a file or found by a glob is read here, once.
"""

from __future__ import annotations

import csv
import glob
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pisa_fab.errors import Position, SpecError
from pisa_fab.ranges import Linspace, Logspace, Steps, number
from pisa_fab.specs.fields import check_word
from pisa_fab.specs.problems import FieldError, label, nearest, shown
from pisa_fab.specs.text import Document, Keys, at_home, read_bytes

_RANGE = ("from", "to", "step")
_KINDS = ("from", "linspace", "logspace", "glob", "lines", "flag")

# No sweep has more; it keeps a slip of the keyboard from computing forever.
_MOST_VALUES = 10**15


class ValueReader:
    """Reads the values of columns; `workdir` is where relative names start."""

    def __init__(self, document: Document, workdir: Path) -> None:
        self._document, self._workdir = document, workdir

    def read(self, value: Any, keys: Keys) -> tuple[Sequence[str], bool]:
        """Give the values that stand at `keys`, and whether they are a flag's. Raises SpecError."""
        if isinstance(value, dict):
            return self._mapping(value, keys)
        values = self._list(value, keys)
        return values, False

    def _mapping(self, value: dict[str, Any], keys: Keys) -> tuple[Sequence[str], bool]:
        if any(key in value for key in _RANGE):
            self._only(value, keys, _RANGE)
            return self._range(value, keys), False
        readers: dict[str, Callable[[Any, Keys], Sequence[str]]] = {
            "linspace": self._linspace,
            "logspace": self._logspace,
            "glob": self._glob,
            "lines": self._lines,
            "flag": self._flag,
        }
        kind = next((key for key in value if key in readers), None)
        if kind is None:
            self._only(value, keys, _KINDS)
            raise self._document.wrong(keys, f"{label(keys)} has no values")
        self._only(value, keys, (kind,))
        return readers[kind](value[kind], (*keys, kind)), kind == "flag"

    def _only(self, value: dict[str, Any], keys: Keys, known: Sequence[str]) -> None:
        for key in value:
            if key not in known:
                hint = nearest(key, known)
                if key == "csv":
                    hint = "a csv file stands for itself in a list: - {csv: FILE}"
                problem = f"unknown key {label((key,))} in the values of {label(keys)}"
                raise self._document.wrong((*keys, key), problem, hint, key=True)

    def _list(self, value: Any, keys: Keys) -> list[str]:
        if not isinstance(value, list):
            return [self.word(value, keys)]
        if not value:
            raise self._document.wrong(keys, f"{label(keys)} has no values")
        return [self.word(item, (*keys, index)) for index, item in enumerate(value)]

    def word(self, value: Any, keys: Keys) -> str:
        """Give a single value that can be passed to a program. Raises SpecError."""
        if not isinstance(value, str):
            raise self._document.wrong(keys, f"{label(keys)} must be a single value, not {shown(value)}")
        return self._checked(value, keys)

    def _checked(self, value: str, keys: Keys, source: str = "") -> str:
        try:
            return check_word(value)
        except FieldError as error:
            raise self._document.wrong(keys, f"{label(keys)}{source} {error}", error.hint) from error

    # --- computed ---

    def _number(self, value: Any, keys: Keys) -> Any:
        text = self.word(value, keys)
        try:
            return number(text)
        except ValueError as error:
            raise self._document.wrong(keys, f"{label(keys)}: {shown(text)} {error}") from error

    def _range(self, value: dict[str, Any], keys: Keys) -> Sequence[str]:
        for key in ("from", "to"):
            if key not in value:
                hint = "write {from: 0, to: 40} or {from: 0, to: 1, step: 0.1}"
                raise self._document.wrong(keys, f'{label(keys)}: "{key}" is missing', hint)
        start, stop = (self._number(value[key], (*keys, key)) for key in ("from", "to"))
        step = self._number(value.get("step", "1"), (*keys, "step"))
        try:
            steps = Steps(start, stop, step)
        except ValueError as error:
            raise self._document.wrong((*keys, "step"), f"{label(keys)}: {error}") from error
        self._countable(len(steps), keys)
        return steps

    def _spaced(self, value: Any, keys: Keys) -> tuple[Any, Any, int]:
        if not isinstance(value, list) or len(value) != 3:
            hint = f"write {{{keys[-1]}: [1, 100, 5]}}"
            raise self._document.wrong(keys, f"{label(keys)} must be [first, last, how many]", hint)
        start, stop = (self._number(value[i], (*keys, i)) for i in range(2))
        count = self.word(value[2], (*keys, 2))
        if not re.fullmatch("[0-9]{1,30}", count) or int(count) < 2:
            problem = f"{label(keys)}: how many must be a whole number of at least 2, not {shown(count)}"
            raise self._document.wrong((*keys, 2), problem)
        self._countable(int(count), (*keys, 2))
        return start, stop, int(count)

    def _linspace(self, value: Any, keys: Keys) -> Sequence[str]:
        return Linspace(*self._spaced(value, keys))

    def _logspace(self, value: Any, keys: Keys) -> Sequence[str]:
        start, stop, count = self._spaced(value, keys)
        for index, end in enumerate((start, stop)):
            if end <= 0:
                hint = "first and last are the values themselves, not their logarithms"
                problem = f"{label(keys)}: {value[index]} must be more than 0"
                raise self._document.wrong((*keys, index), problem, hint)
        return Logspace(start, stop, count)

    def _countable(self, count: int, keys: Keys) -> None:
        if count > _MOST_VALUES:
            raise self._document.wrong(keys, f"{label(keys)} has {count:,} values, which is too many")

    def _flag(self, value: Any, keys: Keys) -> Sequence[str]:
        values = self._list(value, keys)
        for index, text in enumerate(values):
            if text not in ("true", "false"):
                problem = f"{label(keys)} must be true or false, not {shown(text)}"
                raise self._document.wrong((*keys, index), problem)
        return values

    # --- from files ---

    def _glob(self, value: Any, keys: Keys) -> Sequence[str]:
        pattern = at_home(self.word(value, keys))
        names = glob.glob(pattern, root_dir=self._workdir, recursive=True)  # noqa: PTH207
        if not names:
            problem = f"no file matches {shown(pattern)}"
            raise self._document.wrong(keys, problem, f"looked for in {self._workdir}")
        return [self._checked(name, keys) for name in sorted(names, key=_natural)]

    def _lines(self, value: Any, keys: Keys) -> Sequence[str]:
        _, text = self._file(value, keys)
        # Not splitlines(): a form feed or U+2028 is part of a value.
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        values = [line for line in lines if line.strip()]
        if not values:
            raise self._document.wrong(keys, f"{shown(value)} has no lines")
        return [self._checked(text, keys, f", a line of {shown(value)},") for text in values]

    def _file(self, value: Any, keys: Keys) -> tuple[Path, str]:
        path = self._workdir / at_home(self.word(value, keys))
        try:
            raw = read_bytes(path)
        except SpecError as error:
            raise self._document.wrong(
                keys, f"{shown(value)}: {error.problem}", f"looked for {path}"
            ) from error
        return path, raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff")

    def table(self, value: Any, keys: Keys) -> dict[str, list[str]]:
        """Read a CSV file with a header: the values of each column. Raises SpecError."""
        path, text = self._file(value, keys)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header: list[str] = []
        rows: list[list[str]] = []
        try:
            for row in reader:
                if row and not header:
                    header = row
                elif row:
                    rows.append(row)
                    _check_row(path, reader.line_num, row, header)
        except csv.Error as error:
            raise SpecError(Position(path, reader.line_num, 1), f"not valid CSV: {error}") from error
        if not rows:
            raise self._document.wrong(keys, f"{shown(value)} has no rows below a header")
        for name in header:
            if header.count(name) > 1:
                raise SpecError(Position(path, 1, 1), f"the column {shown(name)} is there twice")
        source = f", a cell of {shown(value)},"
        for row in rows:
            for cell in row:
                self._checked(cell, keys, source)
        return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def _check_row(path: Path, line: int, row: list[str], header: list[str]) -> None:
    if len(row) != len(header):
        raise SpecError(Position(path, line, 1), f"has {len(row)} cells, but the header has {len(header)}")


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort `data2` before `data10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(p) if i % 2 else 0, "" if i % 2 else p) for i, p in enumerate(parts)], name
