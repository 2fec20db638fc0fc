"""Writing tables: CSV that every reader reads, into files that are whole or not there.

Rows end in a newline, and what holds one of any kind is quoted.
"""

from __future__ import annotations

import csv
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_QUOTED = re.compile('["\r\n]')  # what makes the csv module quote a cell, beside a comma


@contextmanager
def replacing(target: Path) -> Iterator[TextIO]:
    """Give a file to write, which takes the target's place when it is whole. Raises OSError.

    Bytes of file names that are no UTF-8 are written as they are. Nobody who may write to the same folder can
    guess the name that the file has before.
    """
    new = target.with_name(f"{target.name}.{secrets.token_hex(8)}.new")
    try:
        with new.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        new.replace(target)
    except OSError:
        new.unlink(missing_ok=True)
        raise


class TableWriter:
    """Writes rows of CSV to a text file that was opened with `newline=""`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        # Python quotes a carriage return only where it is part of the row's end, so it is, here.
        self._writer = csv.writer(self, lineterminator="\r\n")

    def write(self, line: str) -> int:
        """Take one row from the csv module."""
        return self._file.write(line[:-2] + "\n")

    def texts(self, cells: Sequence[str]) -> None:
        """Write one row of two texts or more: the same as `row`, but fast where nothing is to be quoted."""
        line = ",".join(cells)
        if line.count(",") == len(cells) - 1 and _QUOTED.search(line) is None:
            self._file.write(f"{line}\n")
        else:
            self._writer.writerow(cells)

    def row(self, cells: Iterable[object]) -> None:
        """Write one row; None is an empty cell."""
        self._writer.writerow(cells)
