"""The table of the bench: lines with their values, ratios and bars, printed and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from timing import Series


@dataclass(slots=True)
class Line:
    """A line of the table.

    `bar` is what we want to reach: a ratio to the floor, or the value itself where there is no floor or
    `bar_is_value` is set.
    """

    row: str
    name: str
    unit: str
    series: Series = field(default_factory=Series)
    floor: Line | None = None
    bar: float | None = None
    bar_is_value: bool = False
    more_is_better: bool = False
    note: str = ""

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.series.values.append(value)

    @property
    def ratio(self) -> float | None:
        """How many times the floor this is, None where that is not known."""
        if self.floor is None or not self.floor.series.values or not self.series.values:
            return None
        return self.series.value / self.floor.series.value

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached, None where there is none."""
        if self.bar is None or not self.series.values:
            return None
        reached = self.series.value if self.ratio is None or self.bar_is_value else self.ratio
        return reached >= self.bar if self.more_is_better else reached <= self.bar

    def cells(self) -> list[str]:
        """Give the cells of the printed table."""
        sign = "at least" if self.more_is_better else "at most"
        unit = " x" if self.floor and not self.bar_is_value else f" {self.unit}"
        bar = "" if self.bar is None else f"{sign} {self.bar:g}{unit}"
        if not self.series.values:
            return [self.row, self.name, "-", "", bar, "0", self.note]
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        verdict = {None: self.note, True: "met", False: "MISSED"}[self.met]
        value = f"{self.series.value:.4g} {self.unit}"
        return [self.row, self.name, value, ratio, bar, str(len(self.series.values)), verdict]

    def as_json(self) -> dict[str, object]:
        """Give what goes into the JSON file."""
        value = self.series.value if self.series.values else None
        return {
            "row": self.row,
            "name": self.name,
            "unit": self.unit,
            "median": value,
            "values": self.series.values,
            "ratio": self.ratio,
            "bar": self.bar,
            "met": self.met,
            "note": self.note,
        }


def show(lines: Sequence[Line], title: str, console: Console) -> None:
    """Print the table."""
    table = Table("row", "what", "value", "x floor", "bar", "runs", "", title=title)
    last = ""
    for line in lines:
        if last and line.row != last:
            table.add_section()
        last = line.row
        table.add_row(*line.cells())
    console.print(table)
