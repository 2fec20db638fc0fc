"""The lines of the journal: events to text and back. Pure; the file that holds them is `journal`.

A line: `{"t": 1763797062.123, "e": "started", "job": 7, "attempt": 1, "host": "pc01"}`. `t` is Unix time on
the head, `e` the kind of event. Kinds and fields that are not known are skipped, so a newer version may add
what one can do without. When an older one would come to another state, or take a line for damaged, the newer
writes a higher `format` into its `run` lines, which the older refuses. Lower ones are always read.

Format 1 is that of 0.1.0. Format 2 added attempts that a host refused, hosts whose failures do not count
against the jobs (quarantine), workers that are taken up again with their jobs, and the head's epoch.
Format 3 added jobs that are cancelled.
Format 4 added attempts that used more memory than they may, and jobs that stand still for a while.
Format 5 added second attempts of jobs that take longer than expected.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from itertools import chain
from math import isfinite
from sys import intern
from typing import Any

from pisa_fab.errors import RunError
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostCleared,
    HostLost,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostReleased,
    HostUnusable,
    JobGivenUp,
    JobsAdded,
    JobsCancelled,
    JobsPaused,
    JobsReopened,
    Outcome,
    RunClosed,
    RunOpened,
    SecondStarted,
    SlotsChanged,
)
from pisa_fab.model import Policy
from pisa_fab.records import PackedRecords

FORMAT = 5
MANY = 10_000  # numbers from which on they are no tuple of integers, of 36 bytes each

Line = dict[str, Any]

# The two commonest lines as they are written here; what is written in another way is read as JSON.
_ATTEMPT = r'"job": (0|[1-9][0-9]*), "attempt": (0|[1-9][0-9]*), "host": "([^"\\\x00-\x1f]*)"'
_TIME = r"(-?(?:0|[1-9][0-9]*)\.[0-9]+(?:e[+-]?[0-9]+)?)"
_USUAL = re.compile(
    rf'\{{"t": {_TIME}, "e": "(started|ended)", {_ATTEMPT}(?:(, "ending": "exited", "exit_code": 0)'
    rf'(?:, "seconds": {_TIME})?(?:, "user": {_TIME})?(?:, "system": {_TIME})?'
    rf'(?:, "memory": (0|[1-9][0-9]*))?(?:, "waited": {_TIME})?)?\}}\n?'
)

# What stands before the columns and the jobs of a `jobs` line as it is written here.
_JOBS = re.compile(r'\{"t": [0-9.]+, "e": "jobs", "first": [0-9]+, (?="columns": )')

# ----------------------------------------------------------------------------------------------------
# Events to text
# ----------------------------------------------------------------------------------------------------


def encode(time: float, event: Event) -> str:
    """Give the line of an event, without its newline: ASCII. `time` is Unix time, kept to the millisecond."""
    moment = round(time, 3)
    if isinstance(event, AttemptStarted):
        return f'{{"t": {moment!r}, "e": "started", {_attempt(event)}}}'
    if isinstance(event, AttemptEnded) and (success := _success(event.outcome)):
        return f'{{"t": {moment!r}, "e": "ended", {_attempt(event)}{success}}}'
    line: Line = {"t": moment, "e": ""}
    match event:
        case SecondStarted():
            line |= {"e": "second", "job": event.job, "attempt": event.attempt, "host": event.host}
        case AttemptEnded():
            line |= {"e": "ended", "job": event.job, "attempt": event.attempt, "host": event.host}
            _put_outcome(line, event.outcome)
        case JobGivenUp():
            line |= {"e": "given up", "job": event.job, "hosts": event.hosts}
        case JobsAdded():
            line |= {"e": "jobs", "first": event.first}
            return f"{json.dumps(line)[:-1]}, {PackedRecords.of(event.records).text[1:]}"
        case JobsReopened():
            line |= {"e": "reopened", "jobs": _ranges(event.jobs)}
        case CancelAsked():
            line |= {"e": "cancel", "jobs": _ranges(event.jobs), "by": event.by}
        case JobsCancelled():
            line |= {"e": "cancelled", "jobs": _ranges(event.jobs)}
        case RunOpened():
            line |= {"e": "run", "format": FORMAT, "version": event.version, "head": event.head}
            line |= {"pid": event.pid, "jobs": _ranges(event.jobs), "policy": asdict(event.policy)}
            line |= {"epoch": event.epoch} | ({"left_out": event.left_out} if event.left_out else {})
        case RunClosed():
            line |= {"e": "closed", "reason": event.reason}
        case _:
            _put_host(line, event)
    return json.dumps(line)


def _attempt(event: AttemptStarted | AttemptEnded) -> str:
    return f'"job": {event.job}, "attempt": {event.attempt}, "host": {_quoted(event.host)}'


_quoted = lru_cache(maxsize=4096)(json.dumps)  # a few names of hosts stand in a million lines


def _success(outcome: Outcome) -> str:
    """Write a success without anything unusual, just as `_put_outcome` has it; "" of any other outcome."""
    if outcome.exit_code != 0 or outcome.ending is not Ending.EXITED or outcome.signal is not None:
        return ""
    seconds, user, system, memory = outcome.seconds, outcome.user, outcome.system, outcome.memory
    waited = outcome.waited
    if not type(seconds) is type(user) is type(system) is type(waited) is float:
        return ""
    if not isfinite(seconds + user + system + waited):
        return ""
    if outcome.tail or outcome.paused or outcome.limit:
        return ""
    if not type(outcome.exit_code) is type(memory) is int:
        return ""
    text = ', "ending": "exited", "exit_code": 0'
    if seconds:
        text += f', "seconds": {seconds!r}'
    if user:
        text += f', "user": {user!r}'
    if system:
        text += f', "system": {system!r}'
    if memory:
        text += f', "memory": {memory}'
    return f'{text}, "waited": {waited!r}' if waited else text


def _put_outcome(line: Line, outcome: Outcome) -> None:
    """Put in what is not as by default; that keeps the commonest line short."""
    line["ending"] = outcome.ending.value
    if outcome.exit_code is not None:
        line["exit_code"] = outcome.exit_code
    if outcome.signal is not None:
        line["signal"] = outcome.signal
    if outcome.seconds:
        line["seconds"] = outcome.seconds
    if outcome.user:
        line["user"] = outcome.user
    if outcome.system:
        line["system"] = outcome.system
    if outcome.memory:
        line["memory"] = outcome.memory
    if outcome.tail:
        line["tail"] = outcome.tail
    if outcome.paused:
        line["paused"] = outcome.paused
    if outcome.limit:
        line["limit"] = outcome.limit
    if outcome.waited:
        line["waited"] = outcome.waited


def _put_host(line: Line, event: Event) -> None:
    """Put in what happened to a host; of its worker, what is not as by default."""
    match event:
        case HostReady():
            line |= {"e": "ready", "host": event.host, "slots": event.slots}
            line |= {"python": event.python, "cores": event.cores}
            more = {"machine": event.machine, "resumed": event.resumed, "holds": event.holds}
            line |= {name: value for name, value in more.items() if value}
        case HostUnusable():
            line |= {"e": "unusable", "host": event.host, "reason": event.reason}
        case HostLost():
            line |= {"e": "lost", "host": event.host, "reason": event.reason, "ended": event.worker_ended}
        case HostReleased():
            line |= {"e": "released", "host": event.host, "reason": event.reason}
        case SlotsChanged():
            line |= {"e": "slots", "host": event.host, "slots": event.slots, "reason": event.reason}
        case JobsPaused():
            line |= {"e": "paused", "host": event.host, "jobs": _ranges(event.jobs)}
        case HostQuarantined():
            line |= {"e": "quarantined", "host": event.host, "reason": event.reason}
            line["jobs"] = _ranges(event.jobs)
        case HostProbed():
            line |= {"e": "probed", "host": event.host}
        case HostCleared():
            line |= {"e": "cleared", "host": event.host}


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as `0-40,45`: a million in a row take a few bytes."""
    if isinstance(numbers, range) and numbers.step == 1 and len(numbers) > 1:
        return f"{numbers[0]}-{numbers[-1]}"
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


# ----------------------------------------------------------------------------------------------------
# Text to events
# ----------------------------------------------------------------------------------------------------


def decode(text: str) -> tuple[float, Event] | None:
    """Give the time and the event of a line; None for a kind of event that this version does not know.

    Raises ValueError for what is no line of a journal, RunError for a journal of a format that is too new.
    """
    if (found := _USUAL.fullmatch(text)) is not None:
        moment, kind, job, attempt, host, success, seconds, user, system, memory, waited = found.groups()
        if success is None and kind == "started":
            return float(moment), AttemptStarted(int(job), int(attempt), intern(host))
        if success is not None and kind == "ended":
            times = (float(seconds or 0.0), float(user or 0.0), float(system or 0.0))
            outcome = Outcome(
                Ending.EXITED, 0, None, *times, int(memory or 0), "", 0.0, 0, float(waited or 0.0)
            )
            return float(moment), AttemptEnded(int(job), int(attempt), intern(host), outcome)
    try:
        line = json.loads(text)
        moment, kind = float(line["t"]), line["e"]
        if kind == "jobs":
            return moment, _read_jobs(line, text)
        reader = _READERS.get(kind)
        return None if reader is None else (moment, reader(line))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not an event: {error!r}") from error


def may_concern(line: bytes, job: int) -> bool:
    """Say whether a line has to be read by who asks for one job: not those that are surely of other jobs.

    That takes a fraction of reading it.
    """
    return b'"job": %d, ' % job in line or not (b'"job": ' in line or b'"e": "jobs", ' in line)


def is_of_an_attempt(line: bytes) -> bool:
    """Say whether a line of a journal is one of those of which nearly all of it consists."""
    return line.startswith(b'{"t": ') and (b'"e": "started", ' in line or b'"e": "ended", ' in line)


def _number(line: Line, name: str) -> int:
    value = line[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is no number")
    return value


def _text(line: Line, name: str) -> str:
    """Give a text; the same text is the same object, because a few host names stand in a million lines."""
    return intern(line[name])


def _read_started(line: Line) -> Event:
    return AttemptStarted(_number(line, "job"), _number(line, "attempt"), _text(line, "host"))


def _read_second(line: Line) -> Event:
    return SecondStarted(_number(line, "job"), _number(line, "attempt"), _text(line, "host"))


def _read_ended(line: Line) -> Event:
    get = line.get
    outcome = Outcome(
        Ending(line["ending"]),
        get("exit_code"),
        get("signal"),
        get("seconds", 0.0),
        get("user", 0.0),
        get("system", 0.0),
        get("memory", 0),
        get("tail", ""),
        get("paused", 0.0),
        get("limit", 0),
        get("waited", 0.0),
    )
    return AttemptEnded(_number(line, "job"), _number(line, "attempt"), _text(line, "host"), outcome)


def _read_ready(line: Line) -> Event:
    return HostReady(
        _text(line, "host"),
        _number(line, "slots"),
        _text(line, "python"),
        line["cores"],
        intern(line.get("machine", "")),
        bool(line.get("resumed", False)),
        tuple((int(job), int(attempt)) for job, attempt in line.get("holds", ())),
    )


def _read_jobs(line: Line, text: str) -> Event:
    records = _JOBS.match(text)
    same = f"{{{text[records.end() :].rstrip()}" if records else ""  # as it was written here
    return JobsAdded(_number(line, "first"), PackedRecords.read(line["columns"], line["jobs"], same))


def _read_run(line: Line) -> Event:
    if _number(line, "format") > FORMAT:
        raise RunError(
            f"the journal is of format {line['format']}, written by pisa_fab {line['version']}",
            "use that version, or a newer one, with this run directory",
        )
    known = {field.name for field in fields(Policy)}
    policy = Policy(**{name: value for name, value in line["policy"].items() if name in known})
    jobs = _read_ranges(line["jobs"])
    epoch = _number(line, "epoch") if "epoch" in line else 1  # of format 1, whose workers know of none
    left_out = _number(line, "left_out") if "left_out" in line else 0
    head, pid = _text(line, "head"), _number(line, "pid")
    return RunOpened(_text(line, "version"), head, pid, jobs, policy, epoch, left_out)


def _read_ranges(text: str) -> Sequence[int]:
    """Read what `_ranges` wrote; many numbers take little memory."""
    parts: list[range] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        parts.append(range(int(first), int(last or first) + 1))
    if sum(map(len, parts)) < MANY:
        return tuple(chain.from_iterable(parts))
    return parts[0] if len(parts) == 1 else array("Q", chain.from_iterable(parts))


_READERS: Mapping[str, Callable[[Line], Event]] = {
    "started": _read_started,
    "second": _read_second,
    "ended": _read_ended,
    "given up": lambda line: JobGivenUp(_number(line, "job"), tuple(map(intern, line["hosts"]))),
    "ready": _read_ready,
    "unusable": lambda line: HostUnusable(_text(line, "host"), _text(line, "reason")),
    "lost": lambda line: HostLost(_text(line, "host"), _text(line, "reason"), bool(line["ended"])),
    "released": lambda line: HostReleased(_text(line, "host"), _text(line, "reason")),
    "slots": lambda line: SlotsChanged(_text(line, "host"), _number(line, "slots"), _text(line, "reason")),
    "paused": lambda line: JobsPaused(_text(line, "host"), tuple(_read_ranges(line["jobs"]))),
    "quarantined": lambda line: HostQuarantined(
        _text(line, "host"), _text(line, "reason"), tuple(_read_ranges(line["jobs"]))
    ),
    "probed": lambda line: HostProbed(_text(line, "host")),
    "cleared": lambda line: HostCleared(_text(line, "host")),
    "reopened": lambda line: JobsReopened(_read_ranges(line["jobs"])),
    "cancel": lambda line: CancelAsked(_read_ranges(line["jobs"]), _text(line, "by")),
    "cancelled": lambda line: JobsCancelled(_read_ranges(line["jobs"])),
    "run": _read_run,
    "closed": lambda line: RunClosed(_text(line, "reason")),
}
