"""What became of every job, for programs: `Results`, a part of the Python API (see `api`).

Made of what the journal amounts to and of the plan; nothing is changed, and outputs are read when asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from pisa_fab.errors import UsageError
from pisa_fab.layout import Layout
from pisa_fab.model import Batch, JobState, job_name
from pisa_fab.numbering import Numbering

if TYPE_CHECKING:
    import pandas

    from pisa_fab.endings import JobResult
    from pisa_fab.history import History
    from pisa_fab.results import Table


@dataclass(frozen=True)
class Result:
    """What is known of one job.

    Attributes:
        number, argv: which job it is, and its command line.
        arguments: the value of every column of the sweep; None where the job has none.
        state: `succeeded`, `failed`, `lost`, `cancelled`, `waiting`, `running` or `in doubt`.
        host, attempt: where it ran last, and for the how-manieth time; None if it has not ended yet.
        started: when that attempt was started.
        seconds: how long it took.
        exit_code, signal: how it ended.
        memory: its peak in bytes.
    """

    number: int
    argv: tuple[str, ...]
    arguments: Mapping[str, str | None]
    state: str
    layout: Layout = field(repr=False)
    host: str | None = None
    attempt: int | None = None
    started: datetime | None = None
    seconds: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    memory: int | None = None

    @property
    def name(self) -> str:
        """The number as it stands in file names: `0007`."""
        return job_name(self.number)

    @property
    def succeeded(self) -> bool:
        """Whether it did what it should."""
        return self.state == JobState.SUCCEEDED

    @property
    def stdout(self) -> str:
        """What it printed; "" if it has not ended yet. Raises OSError."""
        return self._read("out")

    @property
    def stderr(self) -> str:
        """What it printed to standard error; "" if it has not ended yet. Raises OSError."""
        return self._read("err")

    def _read(self, stream: str) -> str:
        from pisa_fab.results import Outputs, ParseError

        if self.attempt is None:
            return ""
        try:
            return Outputs(self.layout).read(self.number, self.attempt, stream)
        except ParseError as error:
            raise OSError(f"job {self.name}: {error}") from error


class Results(Sequence[Result]):
    """What is known of every job of a batch, in the order of their numbers.

    Attributes:
        reason: how the run ended: `finished`, `interrupted`, `no host` or `hopeless`; "" of one that was only
            looked at.
    """

    def __init__(self, batch: Batch, history: History, numbering: Numbering, reason: str = "") -> None:
        self.reason = reason
        self._batch = batch
        self._history = history
        self._numbering = numbering

    def __repr__(self) -> str:
        states = Counter(result.state for result in self)
        counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
        return f"<Results of {self._batch.output.name}: {counts}>"

    def __len__(self) -> int:
        return len(self._numbering.numbers)

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...

    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        """Give the result at a place; `job` finds one by its number."""
        numbers = self._numbering.sorted[index]
        return self.job(numbers) if isinstance(numbers, int) else [self.job(number) for number in numbers]

    def job(self, number: int) -> Result:
        """Give the result of the job with this number. Raises KeyError if the batch has none."""
        job = self._batch.plan.job(self._numbering.index(number), number)
        state = self._history.scheduler.state(number)
        known = self._history.results.get(number)
        base = Result(number, job.argv, job.arguments, state.value, Layout(self._batch.output))
        return base if known is None else told(base, known)

    @property
    def succeeded(self) -> bool:
        """Whether every job did what it should."""
        return all(self._history.scheduler.state(job) is JobState.SUCCEEDED for job in self._numbering.sorted)

    @property
    def failed(self) -> list[Result]:
        """The results of the jobs that failed, or were given up."""
        return [result for result in self if result.state in (JobState.FAILED, JobState.LOST)]

    @cached_property
    def table(self) -> Table:
        """The table of `collect`: arguments, how it went, and what `results:` finds in the outputs."""
        from pisa_fab.results import collect

        return collect(self._batch, self._history, self._numbering)

    def rows(self) -> list[dict[str, Any]]:
        """Give the table as one dict a row; numbers of the journal are numbers, arguments are texts."""
        return [{name: row.get(name) for name in self.table.columns} for row in self.table.rows]

    def to_frame(self) -> pandas.DataFrame:
        """Give the table as a pandas data frame, its arguments and results as numbers where all are.

        Raises UsageError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("a data frame needs pandas", "pip install 'pisa-fab[frame]'") from error
        frame = pandas.DataFrame(self.rows(), columns=self.table.columns)
        for name in frame.columns:
            if name != "job" and not pandas.api.types.is_numeric_dtype(frame[name]):
                frame[name] = as_numbers(frame[name])
        return frame


def as_numbers(column: pandas.Series[Any]) -> pandas.Series[Any]:
    """Give a column of texts as numbers if every one is a number, else as it is."""
    import pandas

    try:
        return pandas.to_numeric(column)
    except (ValueError, TypeError):
        return column


def told(base: Result, known: JobResult) -> Result:
    """Put in how a job went."""
    outcome = known.outcome
    return replace(
        base,
        host=known.host,
        attempt=known.attempt,
        started=datetime.fromtimestamp(known.started).astimezone(),
        seconds=outcome.seconds,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        memory=outcome.memory,
    )
