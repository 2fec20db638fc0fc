"""Collect: every job's arguments, how it went, and what its output says, as one table.

How a run went is taken from its journal; files are only read for what jobs printed. Nothing here runs while
jobs are run, and nothing is written but the table.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from pisa_fab.endings import JobResult
from pisa_fab.errors import PisaError
from pisa_fab.events import JobState
from pisa_fab.history import History
from pisa_fab.layout import Layout, folders_of
from pisa_fab.model import Batch, ResultFormat, job_name
from pisa_fab.numbering import Numbering
from pisa_fab.table import TableWriter, replacing

Row = dict[str, Any]
Parser = Callable[[str], list[Row]]

FORMATS = ("csv", "json")
# What is known of every job, in the order of the table; the arguments come behind `job`.
FACTS = (
    "state",
    "exit_code",
    "signal",
    "host",
    "attempt",
    "start",
    "seconds",
    "user_seconds",
    "system_seconds",
    "peak_memory_bytes",
)
# A file that another machine wrote may show late on a network home: seconds of patience, in all, and between
# two looks.
VISIBILITY_PATIENCE = 5.0
VISIBILITY_PAUSE = 0.25


class ParseError(Exception):
    """An output does not hold what `results:` says; the message says what is wrong with it."""


@dataclass(slots=True)
class Table:
    """The collected table.

    Attributes:
        columns: their names in order.
        rows: one a job, or one a line of its output where `results: csv` finds several.
        missing: jobs that have no result, with the reason: number -> text.
        unparsed: jobs that succeeded but whose output does not hold what it should: number -> text.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)
    unparsed: dict[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every job has a result that could be read."""
        return not self.missing and not self.unparsed


def argument_column(name: str) -> str:
    """Give the column of an argument; one that is called like a column of ours is told apart."""
    return f"argument.{name}" if name in ("job", *FACTS) else name


def collect(batch: Batch, history: History, numbering: Numbering) -> Table:
    """Make the table of a batch from its journal and its outputs."""
    table = Table(["job", *(argument_column(name) for name in batch.plan.columns), *FACTS])
    outputs = Outputs(Layout(batch.output))
    parse = parser(batch.results) if batch.results else None
    parsed_columns: dict[str, str] = {}
    for job in numbering.jobs(batch.plan):
        state = history.scheduler.state(job.number)
        result = history.results.get(job.number)
        base: Row = {"job": job.name}
        base.update((argument_column(name), value) for name, value in job.arguments.items())
        base.update(facts(state, result))
        if state is not JobState.SUCCEEDED or result is None:
            table.missing[job.number] = describe_missing(state, result)
        found: list[Row] = [{}]
        if parse is not None and result is not None and job.number not in table.missing:
            try:
                found = parse(outputs.read(job.number, result.attempt)) or [{}]
            except ParseError as error:
                table.unparsed[job.number] = str(error)
        for values in found:
            for name in values:
                parsed_columns.setdefault(name, f"result.{name}" if name in table.columns else name)
            table.rows.append(base | {parsed_columns[name]: value for name, value in values.items()})
    table.columns += parsed_columns.values()
    return table


def facts(state: JobState, result: JobResult | None) -> Row:
    """Give what the journal knows of a job."""
    row: Row = dict.fromkeys(FACTS)
    row["state"] = state.value
    if result is not None:
        outcome = result.outcome
        start = datetime.fromtimestamp(result.started).astimezone().isoformat(timespec="seconds")
        values = (
            outcome.exit_code,
            outcome.signal,
            result.host,
            result.attempt,
            start,
            outcome.seconds,
            outcome.user,
            outcome.system,
            outcome.memory,
        )
        row.update(zip(FACTS[1:], values, strict=True))
    return row


def describe_missing(state: JobState, result: JobResult | None) -> str:
    """Say why a job has no result."""
    if result is not None and state is JobState.FAILED:
        return f"failed: {result.outcome.describe()}"
    return state.value


class Outputs:
    """The standard outputs of a run, some of which may show late on a network home.

    What the journal says counted is somewhere: under the job's own name or, when head or host died before it
    was published, still under that of the attempt. Then the job's own name may be there as well, with what an
    earlier attempt printed.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.patience = VISIBILITY_PATIENCE
        self.look()

    def look(self) -> None:
        """Begin anew to list each folder before it is used."""
        self.unpublished: set[tuple[int, int]] = set()
        self.listed: set[str] = set()
        self.looked_at = time.monotonic()

    def list_folder(self, folder: str) -> None:
        """List a folder (see `folders_of`), which makes an NFS client ask its server what is there now.

        That of attempts first: what is published meanwhile shows in the other.
        """
        self.listed.add(folder)
        with contextlib.suppress(OSError):
            self.unpublished.update(self.layout.leftovers(folder))
        with contextlib.suppress(OSError):
            list((self.layout.stdout / folder).iterdir())

    def read(self, job: int, attempt: int, stream: str = "out") -> str:
        """Give what this attempt, which counted, printed; `stream` is `out` or `err`.

        Raises ParseError if no file shows.
        """
        while (text := self.find(job, attempt, stream)) is None:
            if time.monotonic() >= self.looked_at + VISIBILITY_PAUSE:
                self.look()
            elif self.patience > 0:
                self.patience -= VISIBILITY_PAUSE
                time.sleep(VISIBILITY_PAUSE)
            else:
                raise ParseError("its output file is gone")
        return text

    def find(self, job: int, attempt: int, stream: str) -> str | None:
        """Give the same, None if no file shows now. Raises ParseError if it cannot be read."""
        which = ("out", "err").index(stream)
        for folder in folders_of(job):
            if folder not in self.listed:
                self.list_folder(folder)
        places = self.layout.job_places(job)
        if (job, attempt) in self.unpublished:
            places = itertools.chain(self.layout.attempt_places(job, attempt), places)
        for files in places:
            try:
                return files[which].read_text("utf-8", "replace")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise ParseError(f"its output cannot be read: {error.strerror}") from error
        return None


# -- parsing ------------------------------------------------------------------------------------------------


def parser(results: ResultFormat) -> Parser:
    """Give the function that finds values in an output; it raises ParseError."""
    if results.kind == "regex":
        return regex_parser(re.compile(results.pattern, re.MULTILINE))
    return {"json": parse_json, "csv": parse_csv}[results.kind]


def regex_parser(pattern: re.Pattern[str]) -> Parser:
    """Give a parser for the named groups of a pattern; the last match that sets a group counts."""

    def parse(output: str) -> list[Row]:
        values: Row = {}
        for match in pattern.finditer(output):
            values.update((name, text) for name, text in match.groupdict().items() if text is not None)
        if not values:
            raise ParseError(f"nothing in its output matches {pattern.pattern!r}")
        return [{name: values.get(name) for name in pattern.groupindex}]

    return parse


def parse_json(output: str) -> list[Row]:
    """Read the last line that is not blank as JSON; what is no object becomes the column `result`."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        raise ParseError("it printed nothing, where JSON was expected in the last line")
    try:
        value = json.loads(lines[-1])
    except ValueError as error:
        raise ParseError(f"its last line is not JSON: {lines[-1][:60]!r}") from error
    return [value if isinstance(value, dict) else {"result": value}]


def parse_csv(output: str) -> list[Row]:
    """Read the whole output as CSV with a header; each line below it is a row."""
    reader = csv.DictReader(io.StringIO(output))
    found = list(reader)
    if not found:
        raise ParseError("its output is not CSV with a header and a row")
    for row in found:
        if None in row or None in row.values():
            raise ParseError(f"line {reader.line_num} of its output has not as many fields as its header")
    return found


# -- writing ------------------------------------------------------------------------------------------------


def format_of(to: str, kind: str) -> str:
    """Give the format of a table from `--format` or the file's ending. Raises PisaError for another."""
    chosen = kind or (Path(to).suffix.removeprefix(".").lower() if to not in ("", "-") else "") or "csv"
    if chosen not in FORMATS:
        raise PisaError(f"{chosen} is no format of a table", f"the formats are {' and '.join(FORMATS)}")
    return chosen


def write(table: Table, file: TextIO, kind: str) -> None:
    """Write the table as `csv` or as `json` (a list of objects)."""
    if kind == "json":
        json.dump([{name: row.get(name) for name in table.columns} for row in table.rows], file, indent=1)
        file.write("\n")
        return
    writer = TableWriter(file)
    writer.row(table.columns)
    for row in table.rows:
        writer.row([cell(row.get(name)) for name in table.columns])


def save(table: Table, target: Path, kind: str) -> None:
    """Write the table to a file, whole or not at all. Raises PisaError."""
    try:
        with replacing(target) as file:
            write(table, file, kind)
    except OSError as error:
        raise PisaError(
            f"{target}: cannot be written: {error.strerror}", "name another: --to FILE"
        ) from error


def cell(value: Any) -> Any:
    """Give a value as it stands in CSV: what has parts as JSON."""
    return (
        json.dumps(value) if isinstance(value, Mapping | Sequence) and not isinstance(value, str) else value
    )


def lines_of(jobs: Mapping[int, str], most: int = 10) -> Iterator[str]:
    """Give a line a job with its text, and one that counts the rest."""
    for number in sorted(jobs)[:most]:
        yield f"  {job_name(number)}  {jobs[number]}"
    if len(jobs) > most:
        yield f"  and {len(jobs) - most} more"
