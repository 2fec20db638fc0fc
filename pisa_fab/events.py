"""What has happened and what follows from it, as frozen dataclasses, and nothing that acts.

Events are what the journal holds and what the scheduler is fed; actions are what the head carries out then.
Both are plain values: they compare with `==` and replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from signal import Signals

from pisa_fab.model import JobState as JobState  # wanted wherever events are
from pisa_fab.model import Policy

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
    MEMORY = "memory"  # ended by the worker, or by the kernel for it: it used more than it may
    REFUSED = "refused"  # the host could not start anything: no processes, no memory, no room on the home


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
        paused: how many of the seconds it was made to stand still.
        limit: bytes that it was allowed, if it used more.
        waited: for how many seconds it waited on its host for a slot, before those that it took.
    """

    ending: Ending
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    user: float = 0.0
    system: float = 0.0
    memory: int = 0
    tail: str = ""
    paused: float = 0.0
    limit: int = 0
    waited: float = 0.0

    @property
    def worked(self) -> float:
        """Give the seconds that it took without those that it was made to stand still."""
        return max(0.0, self.seconds - self.paused)

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
            return f"timeout after {self.worked:.0f} s"
        if self.ending is Ending.MEMORY:
            return f"ran out of its {size(self.limit)}"
        return self.ending.value


def size(number: int) -> str:
    """Give bytes for people: `2 GB`, `1.5 GB`, `310 MB`; a GB is 1024 MB, as in a jobs file."""
    for unit, bytes_of_it in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if number >= bytes_of_it:
            return f"{number / bytes_of_it:.1f}".removesuffix(".0") + f" {unit}"
    return f"{number} bytes"


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
        epoch: 1 for the first head, one more for each that follows; a worker obeys the highest it has met.
        left_out: how many more jobs the batch has, which `--only` did not name.
    """

    version: str
    head: str
    pid: int
    jobs: Sequence[int]
    policy: Policy = field(default_factory=Policy)
    epoch: int = 1
    left_out: int = 0


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
class CancelAsked:
    """A person, `by` whom, wants these jobs to be run no more; what runs of them is ended first."""

    jobs: Sequence[int]
    by: str = ""


@dataclass(frozen=True, slots=True)
class JobsCancelled:
    """Jobs that were asked to be cancelled have come to rest: nothing of them runs."""

    jobs: Sequence[int]


@dataclass(frozen=True, slots=True)
class HostReady:
    """A worker is up and has seen workdir, venv and run directory.

    Attributes:
        host, slots: which, and how many jobs it may run at once.
        python, cores: what the worker says of the host.
        machine: what tells this PC from every other that may get its name; "" where it does not say.
        resumed: whether this is the worker of before, taken up again. A worker that is not has made sure that
            no earlier one is left on its machine.
        holds: the attempts (job, attempt) that a resumed worker runs, or whose results it keeps.
    """

    host: str
    slots: int
    python: str = ""
    cores: int = 0
    machine: str = ""
    resumed: bool = False
    holds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HostUnusable:
    """A host did not come to work, for this reason; it is asked again later."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostLost:
    """A host that had been ready went away.

    `worker_ended` is True when the worker was seen to end: its jobs have ended with it, and nothing has to
    be waited for before they are run elsewhere. Otherwise they are in doubt, and may be taken up again.
    """

    host: str
    reason: str
    worker_ended: bool = False


@dataclass(frozen=True, slots=True)
class HostReleased:
    """A host left in an orderly way, with nothing running: the cluster file no longer names it."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """A ready host may run so many jobs at once from here on; what runs on it goes on."""

    host: str
    slots: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JobsPaused:
    """These of the jobs that run on a host, and no others, are made to stand still there from here on."""

    host: str
    jobs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostQuarantined:
    """A host gets no jobs for a while, because it fails jobs for which it is to blame.

    `jobs` are those whose failures there do not count against them: they are run again elsewhere.
    """

    host: str
    reason: str
    jobs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostProbed:
    """A quarantined host gets one job at a time, to see whether it has recovered."""

    host: str


@dataclass(frozen=True, slots=True)
class HostCleared:
    """A host that was probed did well and gets all its slots again."""

    host: str


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The head gave a job to a host."""

    job: int
    attempt: int
    host: str


@dataclass(frozen=True, slots=True)
class SecondStarted:
    """The head gave a job that runs to another host, too, because it takes much longer than expected."""

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
    """The head stopped in an orderly way.

    `reason` is `finished`, `interrupted`, `no host` or `hopeless` (the first jobs all failed alike).
    """

    reason: str


Event = (
    RunOpened
    | JobsAdded
    | JobsReopened
    | CancelAsked
    | JobsCancelled
    | HostReady
    | HostUnusable
    | HostLost
    | HostReleased
    | SlotsChanged
    | JobsPaused
    | HostQuarantined
    | HostProbed
    | HostCleared
    | AttemptStarted
    | SecondStarted
    | AttemptEnded
    | JobGivenUp
    | RunClosed
)


# ----------------------------------------------------------------------------------------------------
# What is to be done next: the actions
# ----------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Stop:
    """A worker runs an attempt that is no longer wanted there."""

    job: int
    attempt: int
    host: str


Action = Accept | Discard | Stop
