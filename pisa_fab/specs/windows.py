"""What a cluster file says about time and other people: `windows`, `timezone`, `at_edge` and `owner`.

Their validators raise `FieldError`, which ends the sentence that begins with the key.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, tzinfo
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from pisa_fab.calendar import DAY_NAMES, EVERY_DAY, WHOLE_DAY, Window
from pisa_fab.model import AtEdge, OwnerPolicy
from pisa_fab.specs.fields import Count, DurationOrZero, Nice
from pisa_fab.specs.problems import FieldError, nearest, quoted, shown

_LONG_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_HOURS = re.compile(r"(\d{1,2}):(\d{2}) ?- ?(\d{1,2}):(\d{2})", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)
_LOCALTIME = Path("/etc/localtime")

# ----------------------------------------------------------------------------------------------------
# Hours, days, dates
# ----------------------------------------------------------------------------------------------------


def _hours(text: Any) -> tuple[int, int]:
    """Read `22:00-06:30` as minutes after midnight."""
    match = _HOURS.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise FieldError(f"must be two times of day, not {shown(text)}", 'write "22:00-06:30"')
    begin, end = (_minutes(match[i], match[i + 1]) for i in (1, 3))
    if begin == WHOLE_DAY:
        raise FieldError("begins at 24:00", 'write 00:00; 24:00 is an end, as in "18:00-24:00"')
    if begin == end:
        problem = f"ends when it begins: {quoted(text)}"
        raise FieldError(problem, "leave hours out for whole days; 24:00 is the end of a day")
    return begin, end or WHOLE_DAY


def _minutes(hours: str, minutes: str) -> int:
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > WHOLE_DAY:
        raise FieldError(f"has a time that no clock shows: {hours}:{minutes}", "00:00 to 24:00")
    return total


def _day(name: str) -> int:
    name = name.strip().lower()
    for names in (DAY_NAMES, _LONG_NAMES):
        if name in names:
            return names.index(name)
    raise FieldError(f"has an unknown day: {quoted(name)}", nearest(name, (*DAY_NAMES, *_LONG_NAMES[5:])))


def _days(text: Any) -> frozenset[int]:
    """Read `fri`, `mon-thu` or `sat-mon` as numbers of weekdays."""
    if not isinstance(text, str):
        raise FieldError(f"must be weekdays, not {shown(text)}", "write mon-fri or [sat, sun]")
    first, _, last = text.partition("-")
    begin = _day(first)
    end = _day(last) if "-" in text else begin
    return frozenset(day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1))


def _dates(text: Any) -> tuple[date, date]:
    """Read `2026-12-24` or `2026-12-24..2027-01-06` as first and last day."""
    if not isinstance(text, str):
        raise FieldError(f"must be one date or two, not {shown(text)}", "write 2026-12-24..2027-01-06")
    first, _, last = text.partition("..")
    begin = _date(first)
    end = _date(last) if ".." in text else begin
    if end < begin:
        raise FieldError(f"ends before it begins: {quoted(text)}")
    return begin, end


def _date(text: str) -> date:
    match = _DATE.fullmatch(text.strip())
    if match is None:
        raise FieldError(f"has no date where one should be: {quoted(text)}", "write 2026-12-24..2027-01-06")
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError as error:
        raise FieldError(f"has a day that no calendar has: {quoted(text.strip())}") from error


def _some(read: Callable[[Any], Any]) -> WrapValidator:
    """Take one text with commas for a list; a mistake in it is one of the key, not of an item."""

    def wrapped(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str):
            return [read(part) for part in value.split(",")]
        return inner(value)

    return WrapValidator(wrapped)


def _texts(pattern: str, examples: list[str]) -> WithJsonSchema:
    """Say to an editor: one such text, several with commas between, or a list of them."""
    one = {"type": "string", "pattern": f"^ *{pattern}( *, *{pattern})* *$", "examples": examples}
    return WithJsonSchema({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})


_NAMED_DAY = f"([{''.join(sorted({c for n in _LONG_NAMES for c in n + n.upper()}))}]{{3,9}})"
_NAMED_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = "[0-9]{1,2}:[0-9]{2}"

Hours = Annotated[
    list[Annotated[tuple[int, int], BeforeValidator(_hours)]],
    Field(min_length=1),
    _some(_hours),
    _texts(f"{_CLOCK} ?- ?{_CLOCK}", ["22:00-06:30"]),
]
Days = Annotated[
    list[Annotated[frozenset[int], BeforeValidator(_days)]],
    Field(min_length=1),
    _some(_days),
    _texts(f"{_NAMED_DAY}( ?- ?{_NAMED_DAY})?", ["mon-fri", "sat, sun"]),
]
Dates = Annotated[
    list[Annotated[tuple[date, date], BeforeValidator(_dates)]],
    Field(min_length=1),
    _some(_dates),
    _texts(rf"{_NAMED_DATE}( ?\.\. ?{_NAMED_DATE})?", ["2026-12-24", "2026-12-24..2027-01-06"]),
]


class WindowEntry(BaseModel):
    """Hours of some days in which another limit holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hours: Hours = Field(
        [(0, WHOLE_DAY)],
        validate_default=False,
        description='From when until when, "22:00-06:30"; a list for several. Default: the whole day.',
    )
    days: Days = Field(
        [EVERY_DAY],
        validate_default=False,
        description="Weekdays on which it begins: mon-fri, [sat, sun]. Default: all.",
    )
    dates: Dates = Field(
        [],
        validate_default=False,
        description="Days on which it begins: 2026-12-24..2027-01-06; a list for several. Default: all.",
    )
    slots: Count | None = Field(
        None, description="How many jobs at once on a host, 0 for none. Default: as without the window."
    )
    nice: Nice | None = Field(
        None, description="How far jobs stand back, 0 to 19. Default: as without the window."
    )

    @model_validator(mode="after")
    def _says_something(self) -> WindowEntry:
        if self.slots is None and self.nice is None:
            raise FieldError("changes nothing: it has neither slots nor nice", "write slots: 0 for no jobs")
        return self

    def windows(self) -> tuple[Window, ...]:
        """Give one window for each of its hours."""
        days = frozenset(day for some in self.days for day in some)
        dates = tuple(self.dates)
        return tuple(Window(begin, end, days, dates, self.slots, self.nice) for begin, end in self.hours)


# ----------------------------------------------------------------------------------------------------
# What happens at the edge, and when somebody comes
# ----------------------------------------------------------------------------------------------------


def _one_of(kind: type[StrEnum], more: str = "") -> Callable[[Any], Any]:
    """Make what reads one of a few words; `more` says what else is possible."""
    words = [member.value for member in kind]

    def read(value: Any) -> Any:
        if value not in words:
            problem = f"must be {', '.join(words[:-1])} or {words[-1]}{more}, not {shown(value)}"
            hint = nearest(value, words) if isinstance(value, str) else ""
            raise FieldError(problem, hint if hint.startswith("did") else "")
        return kind(value)

    return read


def _cores(value: Any) -> float:
    """Read a number of cores, which may be a part of one."""
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value, re.ASCII):
        raise FieldError(f"must be a number of cores, not {shown(value)}", "write 0.5 for half of one")
    if not float(value):
        raise FieldError("must be more than 0", "owner: ignore looks for nobody")
    return float(value)


Edge = Annotated[
    AtEdge,
    BeforeValidator(_one_of(AtEdge)),
    WithJsonSchema({"enum": [member.value for member in AtEdge]}),
]
Policy = Annotated[
    OwnerPolicy,
    BeforeValidator(_one_of(OwnerPolicy)),
    WithJsonSchema({"enum": [member.value for member in OwnerPolicy]}),
]
Cores = Annotated[
    float,
    BeforeValidator(_cores),
    WithJsonSchema(
        {"type": ["number", "string"], "exclusiveMinimum": 0, "pattern": r"^[0-9]{1,6}(\.[0-9]{1,6})?$"}
    ),
]


class OwnerEntry(BaseModel):
    """How jobs stand back for somebody else at the PC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Policy | None = Field(
        None, description="What is done with the jobs there: pause, requeue or ignore. Default: pause."
    )
    idle: DurationOrZero | None = Field(
        None, description="How long nobody must have been there before the first jobs start. Default: 15m."
    )
    quiet: DurationOrZero | None = Field(
        None, description="How long it must have been quiet before paused jobs go on. Default: 5m."
    )
    give_back: DurationOrZero | None = Field(
        None, description="How long jobs stay paused before the pool gets them back. Default: 10m."
    )
    load: Cores | None = Field(
        None, description="So many cores in use by others count as somebody at work. Default: 0.5."
    )

    def given(self) -> dict[str, Any]:
        """Give what was written."""
        return {name: value for name, value in self if value is not None}


def owner_entry(value: Any) -> Any:
    """Take a policy alone for a mapping."""
    return value if isinstance(value, dict) else {"policy": _one_of(OwnerPolicy, " or a mapping")(value)}


# ----------------------------------------------------------------------------------------------------
# Whose clock
# ----------------------------------------------------------------------------------------------------


def zone_named(name: str) -> tzinfo:
    """Give the time zone with a name such as Europe/Berlin. Raises FieldError."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # no such name, one that leads elsewhere, a folder
        raise FieldError(
            f"is no time zone that is known here: {quoted(name)}", _nearest_zones(name)
        ) from error


def _nearest_zones(name: str) -> str:
    from difflib import get_close_matches  # only where there is a mistake

    zones = {zone.lower(): zone for zone in available_timezones()}
    if not zones:
        return "there are none at all; install them: pip install tzdata"
    cities = {zone.rpartition("/")[2]: zone for zone in sorted(zones, reverse=True)}
    asked = name.lower().replace(" ", "_")
    close = [zones[found] for found in get_close_matches(asked, zones, n=3, cutoff=0.7)]
    for city in get_close_matches(asked.rpartition("/")[2], cities, n=2, cutoff=0.75):
        close.append(zones[cities[city]])
    if not close:
        return "write one such as Europe/Berlin"
    return f"did you mean {' or '.join(quoted(zone) for zone in list(dict.fromkeys(close))[:3])}?"


def local_zone(environment: Mapping[str, str] = os.environ, localtime: Path = _LOCALTIME) -> tzinfo:
    """Give the time zone of this machine: that of TZ, else of /etc/localtime, else UTC.

    Raises FieldError where TZ is not the name of a zone.
    """
    written = environment.get("TZ")
    if written is not None:
        written = written.removeprefix(":")
        if not written:
            return UTC  # as the C library has it
        if not written.startswith("/"):
            return zone_named(written)
        localtime = Path(written)
    target = os.path.realpath(localtime)
    _, found, name = target.partition("/zoneinfo/")
    if found:
        try:
            return ZoneInfo(name.removeprefix("posix/"))
        except (LookupError, ValueError, OSError):
            pass  # a place of its own for zones; the file itself says it all
    try:
        return _zone_in(Path(target).read_bytes())
    except (OSError, ValueError, IndexError, AssertionError):  # none, or one that is no zone
        return UTC


class _Whole(io.BytesIO):
    """A file that must be whole: zoneinfo looks for ever for the end of a line that is cut off."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read exactly so many bytes. Raises ValueError when there are fewer."""
        content = super().read(size)
        if size is not None and len(content) < size:
            raise ValueError("the file is cut off")
        return content


@lru_cache(maxsize=4)
def _zone_in(content: bytes) -> tzinfo:
    """Read a zone's file. The same content is the same zone: a cluster file read again changes no host."""
    return ZoneInfo.from_file(_Whole(content), "local time")


def _zone(value: Any) -> tzinfo:
    if not isinstance(value, str):
        raise FieldError(f"must be a text, not {shown(value)}", "write one such as Europe/Berlin")
    return zone_named(value)


Zone = Annotated[
    InstanceOf[tzinfo],
    BeforeValidator(_zone),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["Europe/Berlin"]}),
]
