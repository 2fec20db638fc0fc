"""What a jobs file says about time: `expect`, how long a job takes, and `deadline`, when all are to be done.

Both are read here and asked later: a million jobs are not gone through to read a file, and which moment a
time of day is depends on whose clock is meant, which only the cluster file says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from itertools import islice, product
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, InstanceOf, WithJsonSchema

from pisa_fab.specs.fields import TIME_PATTERN, check_word, duration, timed
from pisa_fab.specs.problems import FieldError, quoted, shown
from pisa_fab.specs.text import Document
from pisa_fab.sweep import Axis, names_in, rendered

_MOMENT = re.compile(r"(?:(\d{4})-(\d{2})-(\d{2})[ T])?(\d{1,2}):(\d{2})", re.ASCII)
_WRITE_TIME = 'write "2026-12-01 07:00", or "07:00" for the next time it is that late'
_MOST_CHECKED = 1_000_000  # different values; only who has lifted max_jobs can have more

# ----------------------------------------------------------------------------------------------------
# How long a job takes
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobTime:
    """How long jobs take, as the jobs file says it; implements `model.Expectation`.

    Attributes:
        text: a duration, in which `{name}` may stand for a variable of the sweep.
        constant: the seconds, if they are the same for all jobs.
    """

    text: str
    constant: float | None

    def seconds(self, arguments: Mapping[str, str | None]) -> float | None:
        """Give the seconds for a job with these arguments; None where they make no duration."""
        if self.constant is not None:
            return self.constant
        try:
            return duration(rendered(self.text, arguments).strip())
        except FieldError:
            return None


_OR_VARIABLE = r"|\{[A-Za-z_][A-Za-z0-9_-]*\}"


def _expected(text: str) -> str:
    if not names_in(text):
        duration(text)
    return text


Expected = Annotated[
    str,
    AfterValidator(check_word),
    AfterValidator(_expected),
    timed("exclusiveMinimum", "90", "15m", "2h", "{t}", pattern=TIME_PATTERN + _OR_VARIABLE),
]


def job_time(
    document: Document, text: str, axes: Sequence[Axis], include: Sequence[Mapping[str, str]]
) -> JobTime:
    """Make the expectation of what `expect` says; its variables are known. Raises SpecError.

    Every value that the variables take is looked at, not every job: a mistake is found before anything is
    written.
    """
    names = dict.fromkeys(names_in(text))
    if not names:
        return JobTime(text, duration(text))
    own = next((name for name in names if name in ("job", "output")), None)
    if own is not None:
        hint = "name a variable of the sweep, such as a column of a csv with a duration for each job"
        raise document.wrong(("expect",), f'{{{own}}} in "expect" says nothing of time', hint)
    made = JobTime(text, None)
    for values in (*islice(_values(names, axes), _MOST_CHECKED), *include):
        if made.seconds(values) is None:
            becomes = rendered(text, values)
            problem = f'"expect" becomes {quoted(becomes)}, which is no duration above 0'
            raise document.wrong(("expect",), problem, _where_from(names, values))
    return made


def _values(names: Mapping[str, None], axes: Sequence[Axis]) -> Any:
    """Give every combination of the values of some variables once."""
    columns: list[str] = []
    rows: list[Any] = []
    for axis in axes:
        at = [index for index, column in enumerate(axis.columns) if column.name in names]
        if at:
            columns += [axis.columns[index].name for index in at]
            together = islice(zip(*(axis.values[index] for index in at), strict=True), _MOST_CHECKED)
            rows.append(list(dict.fromkeys(together)))
    for combination in product(*rows):
        yield dict(zip(columns, (value for row in combination for value in row), strict=True))


def _where_from(names: Mapping[str, None], values: Mapping[str, str]) -> str:
    where = ", ".join(f"{name} is {quoted(values[name])}" for name in names)
    return f"it must be 90 (seconds), 15m, 2h or 1d; there {where}"


# ----------------------------------------------------------------------------------------------------
# When all are to be done
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A time as the clock on the wall shows it; implements `model.Deadline`.

    Attributes:
        day: None for whichever day it is next that late.
        hour: 0 to 23.
        minute: 0 to 59.
    """

    day: date | None
    hour: int
    minute: int

    def __str__(self) -> str:
        clock = f"{self.hour:02d}:{self.minute:02d}"
        return clock if self.day is None else f"{self.day} {clock}"

    def unix(self, zone: tzinfo, now: float) -> float:
        """Give the Unix time at which a clock of this zone shows it; of a time of day the first after `now`.

        Where the clock shows it twice, it is the first time; where it skips it, that much after the jump.
        """
        if self.day is not None:
            return self._on(self.day, zone)
        today = datetime.fromtimestamp(now, zone).date()
        days = (self._on(today + timedelta(days=ahead), zone) for ahead in range(3))
        return next(moment for moment in days if moment > now)

    def _on(self, day: date, zone: tzinfo) -> float:
        return datetime(day.year, day.month, day.day, self.hour, self.minute, tzinfo=zone).timestamp()


def _moment(value: Any) -> LocalTime:
    match = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise FieldError(f"must be a date and a time, or a time, not {shown(value)}", _WRITE_TIME)
    year, month, day, hour, minute = match.groups()
    try:
        on = None if year is None else date(int(year), int(month), int(day))
    except ValueError as error:
        raise FieldError(f"has a day that no calendar has: {year}-{month}-{day}", _WRITE_TIME) from error
    if on is not None and not 1970 < on.year < 9999:
        raise FieldError(f"has the year {year}, which cannot be meant", _WRITE_TIME)
    if int(hour) > 23 or int(minute) > 59:
        raise FieldError(f"has a time that no clock shows: {hour}:{minute}", "00:00 to 23:59")
    return LocalTime(on, int(hour), int(minute))


Deadline = Annotated[
    InstanceOf[LocalTime],
    BeforeValidator(_moment),
    # A number: YAML 1.1 takes 17:30 for one (of base 60), and so do editors.
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "pattern": r"^([0-9]{4}-[0-9]{2}-[0-9]{2}[ T])?[0-9]{1,2}:[0-9]{2}$",
            "examples": ["2026-12-01 07:00", "07:00"],
        }
    ),
]
