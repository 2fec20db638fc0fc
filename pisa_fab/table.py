"""Writing CSV that every reader reads: rows end in a newline, and what holds one of any kind is quoted."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO


class TableWriter:
    """Writes rows of CSV to a text file that was opened with `newline=""`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        # Python quotes a carriage return only where it is part of the row's end, so it is, here.
        self._writer = csv.writer(self, lineterminator="\r\n")

    def write(self, line: str) -> int:
        """Take one row from the csv module."""
        return self._file.write(line[:-2] + "\n")

    def row(self, cells: Iterable[object]) -> None:
        """Write one row; None is an empty cell."""
        self._writer.writerow(cells)
