"""The words of design and docs as frozen dataclasses, and nothing that acts.

Three groups: what is to be done (`Job`, `Batch`, `Host`, `Policy`), what has happened (the events, which are
what the journal holds and what the scheduler is fed) and what is to be done next (the actions, which the head
carries out). Events and actions are plain values: they compare with `==` and replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from signal import Signals
from typing import Protocol

# ----------------------------------------------------------------------------------------------------
# What is to be done
# ----------------------------------------------------------------------------------------------------


def job_name(number: int) -> str:
    """Give a job's number as it stands in file names and tables: 7 is `0007`."""
    return f"{number:04d}"


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


@dataclass(frozen=True, slots=True)
class Policy:
    """What the scheduler may do with a job and a host.

    Attributes:
        retries: how often a job that failed is run again.
        max_losses: after how many lost hosts a job is given up.
        lease: seconds of silence after which head and worker act alone.
        margin: seconds that the head waits longer than the worker.
    """

    retries: int = 0
    max_losses: int = 3
    lease: float = 60.0
    margin: float = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use.

    Attributes:
        timeout: seconds of wall-clock time, None for no limit.
        threads: for the thread pools of BLAS and its like.
        nice: 0 to 19.
    """

    timeout: float | None = None
    threads: int = 1
    nice: int = 19


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
        results: how `collect` parses outputs, None for not at all.
        cluster: the cluster file that the jobs file names, None for none.
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
    results: ResultFormat | None = None
    cluster: Path | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """A PC of the pool.

    Attributes:
        name: as in the cluster file; what ssh is asked for.
        slots: how many jobs it may run at once, at least 1.
        user, port, identity, gateway: as ssh knows them; None leaves them to ~/.ssh/config.
        python: the interpreter that runs the worker, 3.8 or newer.
        nice: of its jobs, None for the batch's.
    """

    name: str
    slots: int = 1
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    gateway: str | None = None
    python: str = "python3"
    nice: int | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The hosts of a cluster file, and the lease (seconds) between head and workers."""

    hosts: tuple[Host, ...]
    lease: float = 60.0
    source: Path | None = None


# ----------------------------------------------------------------------------------------------------
# What has happened: the events
# ----------------------------------------------------------------------------------------------------


class Ending(StrEnum):
    """How an attempt came to its end."""

    EXITED = "exited"  # by itself: exit_code says how
    SIGNALLED = "signalled"  # by a signal that nobody here sent
    TIMEOUT = "timeout"  # ended by the worker: it took too long
    STOPPED = "stopped"  # ended by the worker: the head asked for it, or was gone
    NOT_STARTED = "not started"  # the program could not be executed at all


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the worker says of an attempt that ended.

    Attributes:
        ending: how it came to its end.
        exit_code: of the process, None unless it exited.
        signal: that ended it, None unless one did.
        seconds: wall-clock time, on the host's monotonic clock.
        user, system: processor time in seconds, children included.
        memory: peak resident size in bytes.
        tail: the last lines of stderr, of an attempt that did not succeed.
    """

    ending: Ending
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    user: float = 0.0
    system: float = 0.0
    memory: int = 0
    tail: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the job did what it should: it exited with 0."""
        return self.ending is Ending.EXITED and self.exit_code == 0

    def describe(self) -> str:
        """Say in a few words how it ended: `exit code 3`, `signal 9 (SIGKILL)`, `timeout after 20 s`."""
        if self.ending is Ending.EXITED:
            return f"exit code {self.exit_code}"
        if self.ending is Ending.SIGNALLED and self.signal is not None:
            name = next((s.name for s in Signals if s == self.signal), "")
            return f"signal {self.signal} ({name})" if name else f"signal {self.signal}"
        if self.ending is Ending.TIMEOUT:
            return f"timeout after {self.seconds:.0f} s"
        return self.ending.value


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the journal keeps it, so that its row survives a jobs file that no longer has it."""

    key: str
    argv: tuple[str, ...]
    arguments: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class RunOpened:
    """A head began to work on the run directory.

    Attributes:
        version: of pisa_fab.
        head: name of the machine; pid: of the process there.
        jobs: the numbers of the jobs of this batch, ascending.
        policy: in force from here on.
    """

    version: str
    head: str
    pid: int
    jobs: Sequence[int]
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class JobsAdded:
    """Jobs got their numbers: `first`, `first + 1`, ..."""

    first: int
    records: Sequence[JobRecord]


@dataclass(frozen=True, slots=True)
class JobsReopened:
    """Jobs that had ended are to be run again, because the user asked for it."""

    jobs: Sequence[int]


@dataclass(frozen=True, slots=True)
class HostReady:
    """A worker is up and has seen workdir, venv and run directory."""

    host: str
    slots: int
    python: str = ""
    cores: int = 0


@dataclass(frozen=True, slots=True)
class HostUnusable:
    """A host never came to work, for this reason."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostLost:
    """A host that had been ready went away.

    `worker_ended` is True when the worker was seen to end: its jobs have ended with it, and nothing has to
    be waited for before they are run elsewhere.
    """

    host: str
    reason: str
    worker_ended: bool = False


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The head gave a job to a host."""

    job: int
    attempt: int
    host: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A worker reported the end of an attempt."""

    job: int
    attempt: int
    host: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobGivenUp:
    """A job was lost with too many hosts, whose names these are, and is not tried again."""

    job: int
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunClosed:
    """The head stopped in an orderly way; `reason` is `finished`, `interrupted` or `no host`."""

    reason: str


Event = (
    RunOpened
    | JobsAdded
    | JobsReopened
    | HostReady
    | HostUnusable
    | HostLost
    | AttemptStarted
    | AttemptEnded
    | JobGivenUp
    | RunClosed
)


# ----------------------------------------------------------------------------------------------------
# What is to be done next: the actions
# ----------------------------------------------------------------------------------------------------


class JobState(StrEnum):
    """Where a job stands. `succeeded`, `failed` and `lost` are final."""

    WAITING = "waiting"
    RUNNING = "running"
    IN_DOUBT = "in doubt"  # its host was lost and may still be running it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"  # given up: too many hosts were lost with it


@dataclass(frozen=True, slots=True)
class Accept:
    """A result counts. `publish` says that it is the job's last word, whose files get the job's own names."""

    job: int
    attempt: int
    host: str
    publish: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """A result does not count: it came twice, or from an attempt that had been given up."""

    job: int
    attempt: int
    host: str


Action = Accept | Discard
