"""The words of design and docs as frozen dataclasses, and nothing that acts.

What is to be done: `Job`, `Batch`, `Host`, `Policy`. What has happened, and what follows, is in `events`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pisa_fab.calendar import Calendar, Window


def job_name(number: int) -> str:
    """Give a job's number as it stands in file names and tables: 7 is `0007`."""
    return f"{number:04d}"


class JobState(StrEnum):
    """Where a job stands. `succeeded`, `failed`, `lost` and `cancelled` are final."""

    WAITING = "waiting"
    RUNNING = "running"
    IN_DOUBT = "in doubt"  # its host was lost and may still be running it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"  # given up: too many hosts were lost with it
    CANCELLED = "cancelled"  # a person wanted it no more


@dataclass(frozen=True, slots=True)
class Job:
    """One combination of arguments, ready to run.

    Attributes:
        number: its number in the run directory, from 0; never given twice.
        key: 16 hex digits, a hash of what it runs; its identity across resumes.
        argv: the command line; relative paths are relative to the batch's workdir.
        env: the variables that the jobs file adds to the environment.
        arguments: the value of every column of the sweep; None where the job has none.
    """

    number: int
    key: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    arguments: Mapping[str, str | None]

    @property
    def name(self) -> str:
        """The number as it stands in file names: `0007`."""
        return job_name(self.number)


class Plan(Protocol):
    """The combinations of a batch, lazily and by index (see `sweep.Plan`)."""

    columns: tuple[str, ...]

    def __len__(self) -> int:
        """Say how many combinations there are."""

    def keys(self) -> Sequence[str]:
        """Give the key of every combination, in order."""

    def job(self, index: int, number: int) -> Job:
        """Render one combination as the job with this number."""

    def jobs(self, numbers: Iterable[int]) -> Iterator[Job]:
        """Render all combinations in order, with these numbers."""


class Expectation(Protocol):
    """How long a batch's jobs take, as its owner says (see `specs.times`)."""

    def seconds(self, arguments: Mapping[str, str | None]) -> float | None:
        """Give the seconds for a job with these arguments, None where nothing is said of it."""


class Deadline(Protocol):
    """When a batch is to be done, on a clock on the wall (see `specs.times`)."""

    def unix(self, zone: tzinfo, now: float) -> float:
        """Give the Unix time in a zone; of a time of day the first after `now`, which is Unix time, too."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the scheduler may do with a job and a host.

    Attributes:
        retries: how often a job that failed is run again.
        max_losses: after how many lost hosts a job is given up.
        lease: seconds of silence after which head and worker act alone.
        margin: seconds that the head waits longer than the worker.
        stop_after: the run stops when its first so many jobs have all failed in the same way; 0 for never.
        speculate: a job that has run so many times as long as it should may get a second attempt; 0 for none.
    """

    retries: int = 0
    max_losses: int = 3
    lease: float = 60.0
    margin: float = 5.0
    stop_after: int = 0
    speculate: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use.

    Attributes:
        timeout: seconds of wall-clock time, None for no limit.
        threads: for the thread pools of BLAS and its like.
        nice: 0 to 19.
        memory: bytes that all its processes may use together, None for no limit.
    """

    timeout: float | None = None
    threads: int = 1
    nice: int = 19
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class ResultFormat:
    """How `collect` reads a job's standard output: kind `regex`, `json` or `csv`; the pattern of a regex."""

    kind: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one jobs file describes. All paths are absolute.

    Attributes:
        source: the jobs file.
        workdir: where every job is started.
        venv: the virtual environment, None for none.
        output: the run directory.
        assignments: the table that says which job has which arguments.
        plan: the combinations.
        limits: what one job may use.
        retries: how often a failed job is run again.
        max_losses: after how many lost hosts a job is given up.
        stop_after: the run stops when its first so many jobs have all failed in the same way; 0 for never.
        speculate: a job that has run so many times as long as it should may get a second attempt; 0 for none.
        results: how `collect` parses outputs, None for not at all.
        cluster: the cluster file that the jobs file names, None for none.
        notify: the command that is run on the head when a run has ended, with `{summary}`, `{output}` and
            `{state}` in it; empty for none.
        expect: how long a job takes, as the jobs file says; None where it says nothing.
        deadline: when all jobs are to be done, None for no such time.
    """

    source: Path
    workdir: Path
    venv: Path | None
    output: Path
    assignments: Path
    plan: Plan
    limits: Limits = Limits()
    retries: int = 0
    max_losses: int = 3
    stop_after: int = 5
    speculate: float = 0.0
    results: ResultFormat | None = None
    cluster: Path | None = None
    notify: tuple[str, ...] = ()
    expect: Expectation | None = None
    deadline: Deadline | None = None


class AtEdge(StrEnum):
    """What is done with the jobs above the limit when a window leaves a host fewer slots."""

    FINISH = "finish"  # they run to their end
    PAUSE = "pause"  # they stand still until there are slots again
    REQUEUE = "requeue"  # they are ended and run again later, there or elsewhere


class OwnerPolicy(StrEnum):
    """What is done with a host's jobs when somebody else needs it."""

    PAUSE = "pause"  # they stand still until it has been quiet for a while
    REQUEUE = "requeue"  # they are ended and run again later, there or elsewhere
    IGNORE = "ignore"  # nothing: nobody is looked for


@dataclass(frozen=True, slots=True)
class Owner:
    """How jobs stand back for somebody else at the PC. Times are seconds, 0 for at once.

    Attributes:
        policy: what is done with the jobs.
        idle: how long nobody must have been there before the first jobs start.
        quiet: how long it must have been quiet before paused jobs go on.
        give_back: how long jobs stay paused before they are given back to the pool.
        load: so many cores in use by others count as somebody at work.
    """

    policy: OwnerPolicy = OwnerPolicy.IGNORE
    idle: float = 900.0
    quiet: float = 300.0
    give_back: float = 600.0
    load: float = 0.5


# What holds for PCs that somebody has named, where nothing else is said.
COURTESY = Owner(OwnerPolicy.PAUSE)
MIN_FREE_MEMORY = 500 << 20
MIN_FREE_SPACE = 100 << 20


@dataclass(frozen=True, slots=True)
class Host:
    """A PC of the pool.

    Attributes:
        name: as in the cluster file; what ssh is asked for.
        slots: how many jobs it may run at once outside of its windows; 0 only when some window gives more.
        user, port, identity, gateway: as ssh knows them; None leaves them to ~/.ssh/config.
        python: the interpreter that runs the worker, 3.8 or newer.
        nice: of its jobs, None for the batch's.
        windows: when other slots or another nice hold; of two at the same time the later one decides.
        zone: whose wall clock the windows are read on.
        at_edge: what is done with the jobs above the limit when it falls.
        owner: how jobs stand back for somebody else.
        min_free_memory: bytes; with less free memory no job is started there.
    """

    name: str
    slots: int = 1
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    gateway: str | None = None
    python: str = "python3"
    nice: int | None = None
    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC
    at_edge: AtEdge = AtEdge.PAUSE
    owner: Owner = Owner()
    min_free_memory: int = 0

    @property
    def calendar(self) -> Calendar:
        """How many jobs at once, and how nice, at any time; the same one for hosts that differ in nothing."""
        return _calendar(self.slots, self.nice, self.windows, self.zone)


@lru_cache(maxsize=256)
def _calendar(slots: int, nice: int | None, windows: tuple[Window, ...], zone: tzinfo) -> Calendar:
    return Calendar(slots, nice, windows, zone)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The hosts of a cluster file.

    Attributes:
        hosts: the PCs, in the order in which they are first named.
        lease: seconds of silence after which head and worker act alone.
        patience: seconds that a run waits for a host when it has none left; None for ten leases.
        source: the cluster file, None where there is none.
        min_free_space: bytes; with less free space in the home no job is started anywhere.
        contact: how people at the PCs reach whoever runs the jobs: mail, phone or room; empty for not said.
    """

    hosts: tuple[Host, ...]
    lease: float = 60.0
    patience: float | None = None
    source: Path | None = None
    min_free_space: int = 0
    contact: str = ""
