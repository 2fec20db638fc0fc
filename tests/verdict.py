"""Judges a soak by what the jobs wrote themselves and what a user gets, never by the journal.

Pure but for the functions that read files. All times are seconds of one clock, that of `soak_job.clock`.

What must hold, and what is allowed:

- No two attempts of a job run at the same time; where second attempts of stragglers are allowed, two may, but
  no three, and not on one host. A process that is frozen does not run. A worker that was
  frozen together with its jobs beyond its lease ends them when it has looked at its clock again, within
  `worker.LONGEST_WAIT`; until then an overlap is nobody's fault. Such pieces are counted.
- While no head can reach a host, a job there ends a lease and a grace after that began, frozen ones as above.
- An attempt number is used once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from soak_job import TICK

from pisa_fab.messages import lease_grace
from pisa_fab.worker import LONGEST_WAIT

SLACK = 2.0  # seconds that a busy machine may be late

Span = tuple[float, float]


@dataclass(frozen=True)
class Attempt:
    """An attempt, as its log tells.

    Attributes:
        job, number, host: which, and where.
        times: of all lines, ascending; the first is its begin.
        code: exit code that it was about to end with, None if it did not come so far.
    """

    job: int
    number: int
    host: str
    times: tuple[float, ...]
    code: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.job}.{self.number} on {self.host}"


@dataclass
class Timeline:
    """What the soak did to the pool: spans of time in which it surely lasted.

    Attributes:
        frozen: by host: no process ran.
        unreachable: by host: nothing from a head could come there.
        headless: no head could reach anybody.
    """

    frozen: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    unreachable: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    headless: list[Span] = field(default_factory=list)

    def alone(self, host: str) -> list[Span]:
        """Give when a host was surely without a head."""
        return merged([*self.unreachable[host], *self.headless])


@dataclass
class Findings:
    """What the logs say: what is wrong, a line each, and what is only counted."""

    wrong: list[str] = field(default_factory=list)
    overlaps_after_thaw: list[str] = field(default_factory=list)
    attempts: int = 0
    ended_twice: int = 0  # jobs of which several attempts came to their end well
    doubled: int = 0  # jobs of which two attempts ran at the same time where they may


def merged(spans: Iterable[Span]) -> list[Span]:
    """Join spans that touch."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def without(span: Span, holes: Iterable[Span]) -> Iterator[Span]:
    """Give what is left of a span."""
    begin, end = span
    for hole_begin, hole_end in merged(holes):
        if hole_end <= begin or hole_begin >= end:
            continue
        if begin < hole_begin:
            yield begin, hole_begin
        begin = hole_end
    if begin < end:
        yield begin, end


def common(ours: Iterable[Span], theirs: list[Span]) -> Iterator[Span]:
    """Give what spans have in common."""
    for begin, end in ours:
        for other_begin, other_end in theirs:
            if max(begin, other_begin) < min(end, other_end):
                yield max(begin, other_begin), min(end, other_end)


def parse_log(text: str) -> Attempt | None:
    """Read the log of an attempt; None if it was killed before it had written a line."""
    lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not lines:
        return None
    _, _, job, number, host, _ = lines[0]
    ends = [int(words[2]) for words in lines if words[0] == "end"]
    times = tuple(float(words[1]) for words in lines)
    return Attempt(int(job), int(number), host, times, ends[0] if ends else None)


def read_logs(folder: Path) -> list[Attempt]:
    """Read all logs."""
    found = (parse_log(path.read_text()) for path in sorted(folder.iterdir()))
    return [attempt for attempt in found if attempt is not None]


def judge(attempts: list[Attempt], timeline: Timeline, lease: float, *, at_once: int = 1) -> Findings:
    """Look for attempts that overlap, were too long alone, or have the same number.

    `at_once` is how many attempts of a job may run at a time, each on a host of its own.
    """
    findings = Findings(attempts=len(attempts))
    by_job: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_job[attempt.job].append(attempt)
        findings.wrong += too_long_alone(attempt, timeline, lease)
    for others in by_job.values():
        findings.ended_twice += sum(attempt.code == 0 for attempt in others) > 1
        pairs = list(combinations(others, 2))
        for one, other in pairs:
            if one.number == other.number:
                findings.wrong.append(f"attempt {one.name} was run twice, also on {other.host}")
            if at_once > 1 and one.host == other.host:
                report_overlap([one, other], timeline, findings)
        if at_once > 1:
            apart = [[one, other] for one, other in pairs if one.host != other.host]
            findings.doubled += any(together(pair, timeline) for pair in apart)
        for many in combinations(others, at_once + 1):
            report_overlap(list(many), timeline, findings)
    return findings


def report_overlap(attempts: list[Attempt], timeline: Timeline, findings: Findings) -> None:
    """Say when these attempts of a job all ran at the same time."""
    names = " and ".join(attempt.name for attempt in attempts)
    for piece in together(attempts, timeline):
        text = f"{names} {'both' if len(attempts) == 2 else 'all'} ran from {piece[0]:.3f} to {piece[1]:.3f}"
        excused = any(follows_thaw(attempt, piece, timeline) for attempt in attempts)
        (findings.overlaps_after_thaw if excused else findings.wrong).append(text)


def together(attempts: list[Attempt], timeline: Timeline) -> list[Span]:
    """Give when all of them ran."""
    spans, *others = (list(active(attempt, timeline)) for attempt in attempts)
    for theirs in others:
        spans = list(common(spans, theirs))
    return spans


def active(attempt: Attempt, timeline: Timeline) -> Iterator[Span]:
    """Give when it surely was there and not frozen."""
    return without((attempt.times[0], attempt.times[-1]), timeline.frozen[attempt.host])


def follows_thaw(attempt: Attempt, piece: Span, timeline: Timeline) -> bool:
    """Say whether a piece of an attempt's life is what its worker needed to look at its clock again."""
    return any(
        attempt.times[0] < begin and end - TICK <= piece[0] and piece[1] <= end + LONGEST_WAIT + SLACK
        for begin, end in timeline.frozen[attempt.host]
    )


def too_long_alone(attempt: Attempt, timeline: Timeline, lease: float) -> Iterator[str]:
    """Say what an attempt did when no head could have renewed its worker's lease."""
    for begin, end in timeline.alone(attempt.host):
        limit = begin + lease + lease_grace(lease) + SLACK
        late = [moment for moment in attempt.times if limit < moment < end]
        late = [moment for moment in late if not follows_thaw(attempt, (moment, moment), timeline)]
        if late:
            after = f"{late[-1] - begin:.2f} s after its host was alone ({begin:.3f} to {end:.3f})"
            yield f"attempt {attempt.name} still ran {after}"


def output_problem(text: str, job: int, attempt: int) -> str:
    """Say what is wrong with a published output that should be that of an attempt; "" if nothing."""
    lines = text.splitlines()
    for place, line in enumerate(lines):
        words = line.split(" ")
        if words[0] != f"{job}.{attempt}":
            return f"line {place} is not of attempt {attempt}: {line[:40]!r}"
        if words[1:2] != [str(place)]:
            return f"line {place} is another: {line[:40]!r}"
    if not lines or not lines[-1].endswith(" end") or not text.endswith("\n"):
        return f"it stops after {len(lines)} lines, before the end"
    return ""


def judge_user_view(
    run: Path, jobs: int, rows: list[dict[str, str]], attempts: list[Attempt]
) -> Iterator[str]:
    """Say what is wrong with what the user gets: the table of `collect`, and the published files."""
    if [int(row["-n"]) for row in rows] != list(range(jobs)) or len({row["job"] for row in rows}) != jobs:
        yield f"the table has {len(rows)} rows of {jobs} jobs, or in another order"
    by_id = {(attempt.job, attempt.number): attempt for attempt in attempts}
    for row in rows:
        number, name = int(row["job"]), row["job"]
        if row["state"] != "succeeded":
            yield f"job {name}: {row['state']}"
            continue
        result = by_id.get((number, int(row["attempt"])))
        if result is None or result.host != row["host"]:
            yield f"job {name}: no log of attempt {row['attempt']} on {row['host']}"
        elif result.code != 0:
            yield f"job {name}: by its log, attempt {result.name} did not end with 0 but {result.code}"
        for folder, ending in (("stdout", "out"), ("stderr", "err")):
            within = "" if number < 10_000 else str(number // 10_000 * 10_000)
            path = run / folder / within / f"{name}.{ending}"
            try:
                text = path.read_text()
            except OSError as error:
                yield f"job {name}: {path} cannot be read: {error.strerror}"
                continue
            problem = output_problem(text, number, int(row["attempt"])) if folder == "stdout" else text
            if problem:
                yield f"job {name}: {path.name}: {problem[:200]}"
    for folder in ("stdout", "stderr"):
        found = sum(1 for path in (run / folder).rglob("*") if not path.is_dir())
        if found != jobs:
            yield f"{folder} has {found} files of {jobs} jobs"
