"""The assignment file: which job has which arguments, as CSV for `csv.DictReader` and a spreadsheet.

Its rows are the jobs that ever got a number in the run directory, those that the jobs file no longer has
among them, because their outputs are still there. `dryrun` can write it again, byte for byte.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from pisa_fab.errors import RunError
from pisa_fab.model import Batch, Job, job_name
from pisa_fab.numbering import Numbering
from pisa_fab.table import TableWriter, replacing

if TYPE_CHECKING:
    from pisa_fab.events import JobRecord

_QUOTED = re.compile(r"[^\w@%+=:,./ -]", re.ASCII)  # what a shell may not take as it is

Row = tuple[int, Mapping[str, str | None], tuple[str, ...]]


def write_assignments(
    batch: Batch,
    numbering: Numbering,
    records: Mapping[int, JobRecord],
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Write the batch's assignment file, whole or not at all. Raises RunError where it cannot be written.

    `records` are the jobs that the journal knows; `meanwhile` is called every thousand rows.
    """
    target = batch.assignments
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(target) as file:
            table = rows(batch, numbering, records)
            write_table(file, columns(batch, numbering, records), table, meanwhile)
    except OSError as error:
        raise RunError(
            f"{target}: cannot be written: {error.strerror}", "is there room, and is it yours?"
        ) from error


def columns(batch: Batch, numbering: Numbering, records: Mapping[int, JobRecord]) -> list[str]:
    """Give the names of the arguments: the batch's own, then those that only earlier jobs have."""
    known = dict.fromkeys(batch.plan.columns)
    for number in numbering.retired(records):
        known.update(dict.fromkeys(records[number].arguments))
    return list(known)


def rows(batch: Batch, numbering: Numbering, records: Mapping[int, JobRecord]) -> Iterator[Row]:
    """Give number, arguments and command line of every job, by number."""
    retired = numbering.retired(records)
    jobs: Iterator[Job] = numbering.jobs(batch.plan)
    job = next(jobs, None)
    for number in retired:
        while job is not None and job.number < number:
            yield job.number, job.arguments, job.argv
            job = next(jobs, None)
        yield number, records[number].arguments, records[number].argv
    while job is not None:
        yield job.number, job.arguments, job.argv
        job = next(jobs, None)


def write_table(
    file: TextIO, names: list[str], table: Iterable[Row], meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Write the CSV: job, a column an argument, the command line quoted for a shell."""
    writer = TableWriter(file)
    writer.row(["job", *names, "command"])
    for count, (number, arguments, argv) in enumerate(table):
        if count % 1000 == 0:
            meanwhile()
        cells = [arguments.get(name) or "" for name in names]
        writer.texts([job_name(number), *cells, command_line(argv)])


def command_line(argv: Sequence[str]) -> str:
    """Give the words of a command quoted for a shell, as `shlex.join`, but fast where none needs it."""
    line = " ".join(argv)
    if _QUOTED.search(line) is None and line.count(" ") == len(argv) - 1 and "" not in argv:
        return line
    return shlex.join(argv)


def command_lines(jobs: Iterable[Job], *, as_json: bool) -> Iterator[str]:
    """Give a line for each job, ended by a newline: its name and command, quoted for a shell, or JSON."""
    for job in jobs:
        if as_json:
            yield json.dumps({"job": job.name, "argv": job.argv, "env": dict(job.env)}) + "\n"
        else:
            yield f"{job.name}  {command_line(job.argv)}\n"
