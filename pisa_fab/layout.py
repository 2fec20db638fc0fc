"""Every path and file name under the run directory, and nowhere else.

    <output>/                  the run directory, 0700
      stdout/0007.out          what job 7 printed, put there when its result counted
      stderr/0007.err
      assignments.csv          which job has which arguments (unless the jobs file names another place)
      results.csv              what `collect` wrote
      jobs.yaml                the jobs file of a batch that was described by options
      .pisa/                   the machine's own files
        journal.jsonl          everything that happened
        lock                   held by the one head; says who it is
        nonce                  what a host must be able to read to prove that it sees this folder
        secret                 from which the place of a worker on a host follows, so that nobody can guess it
        attempts/0007.2.out    output of an attempt that has not counted, or not yet
        checkpoint             what a long journal amounts to, so that not all of it has to be read again
        requests/<token>.json  what another process asks of the head, until it has done that
        head.log               what `submit --detach` would have shown

Folders stay small. Jobs 0 to 9999 stand as above; from 10000 on each ten thousand has a subfolder, named by
its first job, in each of the three folders of outputs. A job's place follows from its number alone, so it
never changes.

    <output>/stdout/10000/12345.out
    <output>/stderr/990000/991234.err
    <output>/.pisa/attempts/10000/12345.2.out

Whoever writes there makes a subfolder when it is missing. Before 0.4.0 all files stood flat, and what such a
run has left stays there: readers, and whoever publishes, go through `job_places` and `attempt_places`, which
give the place by the rule first and then the flat one. A flat file is out of date once its job was run again.

On a host, outside the run directory, because a socket needs a disk of the host's own:

    /tmp/pisa_fab-<hash>/      a worker's place, 0700: its lock, and the socket by which a head that has lost
                               the worker takes it up again; removed when the worker leaves
    /tmp/pisa_fab-<hash>.note  what everybody there may know of it (`notes` says what, and which order to stop
                               a user can leave beside it)

In any folder, for a few seconds, what `check` and the hosts show each other: `.pisa_fab-check-<token>`.

The worker is told the folders once, and the names with each job, relative to these; it knows none by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pisa_fab.model import job_name


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one run directory; `root` is absolute."""

    root: Path

    @property
    def stdout(self) -> Path:
        """Folder of the published standard outputs."""
        return self.root / "stdout"

    @property
    def stderr(self) -> Path:
        """Folder of the published standard errors."""
        return self.root / "stderr"

    @property
    def assignments(self) -> Path:
        """Default place of the assignment file."""
        return self.root / "assignments.csv"

    def results(self, kind: str) -> Path:
        """Give the default place of the collected table; `kind` is `csv` or `json`."""
        return self.root / f"results.{kind}"

    @property
    def jobs(self) -> Path:
        """The jobs file of a batch that was described by options."""
        return self.root / "jobs.yaml"

    @property
    def private(self) -> Path:
        """Folder of the machine's own files."""
        return self.root / ".pisa"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.private / "journal.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The file with what the journal amounts to up to a certain byte."""
        return self.private / "checkpoint"

    @property
    def lock(self) -> Path:
        """The file that the one head holds locked."""
        return self.private / "lock"

    @property
    def nonce(self) -> Path:
        """The file by which a host shows that it sees this run directory."""
        return self.private / "nonce"

    @property
    def secret(self) -> Path:
        """The file with a text that all heads of this run directory share."""
        return self.private / "secret"

    @property
    def attempts(self) -> Path:
        """Folder of the attempts' own files."""
        return self.private / "attempts"

    @property
    def head_log(self) -> Path:
        """The file for what a head in the background prints."""
        return self.private / "head.log"

    @property
    def requests(self) -> Path:
        """Folder of what is asked of the head."""
        return self.private / "requests"

    def request(self, token: str) -> Path:
        """Give the file of a request."""
        return self.requests / f"{token}.json"

    def pending_requests(self) -> list[Path]:
        """Give the files of the requests that are there. Raises OSError."""
        return [path for path in self.requests.iterdir() if path.suffix == ".json"]

    def attempt_files(self, job: int, attempt: int) -> tuple[Path, Path]:
        """Give the files that an attempt writes its standard output and error to."""
        return next(self.attempt_places(job, attempt))

    def attempt_places(self, job: int, attempt: int) -> Iterator[tuple[Path, Path]]:
        """Give the same, and then where an older version may have written them."""
        for folder in folders_of(job):
            out, err = stream_files(f"{folder}{job_name(job)}.{attempt}")
            yield self.attempts / out, self.attempts / err

    def job_files(self, job: int) -> tuple[Path, Path]:
        """Give the files that hold a job's standard output and error once its result counted."""
        return next(self.job_places(job))

    def job_places(self, job: int) -> Iterator[tuple[Path, Path]]:
        """Give the same, and then where an older version may have put them.

        What stands there is older than what stands at the first place.
        """
        for folder in folders_of(job):
            out, err = stream_files(folder + job_name(job))
            yield self.stdout / out, self.stderr / err

    def leftovers(self, folder: str | None = None) -> Iterator[tuple[int, int]]:
        """Give job and attempt of every standard output that has not been published. Raises OSError.

        `folder` is one of those of `folders_of`, None for all.
        """
        for path in (self.attempts / (folder or "")).iterdir():
            job, _, rest = path.name.partition(".")
            attempt, _, stream = rest.partition(".")
            if stream == "out" and job.isdecimal() and attempt.isdecimal():
                yield int(job), int(attempt)
            elif folder is None and path.name.isdecimal():
                yield from self.leftovers(path.name)

    @property
    def folders(self) -> dict[str, str]:
        """The folders that a worker is told of once: of attempts, and of published outputs and errors."""
        return {"attempts": str(self.attempts), "out": str(self.stdout), "err": str(self.stderr)}

    def create(self) -> None:
        """Make the folders, readable by nobody else. Raises OSError."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.private, self.attempts, self.requests, self.stdout, self.stderr):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.root.chmod(0o700)
        self.private.chmod(0o700)


def place_on_host(secret: str, host: str) -> str:
    """Give the folder on a host where a worker can be found again: one per run directory and host."""
    return f"/tmp/pisa_fab-{mark_on_host(secret, host)}"


def note_on_host(secret: str, host: str) -> str:
    """Give the file on a host that tells people there whose jobs run: one per run directory and host."""
    return f"{place_on_host(secret, host)}.note"


def mark_on_host(secret: str, host: str) -> str:
    """Give what tells the jobs of this run on this host from all others: 16 hex digits."""
    return hashlib.sha256(f"{secret} {host}".encode()).hexdigest()[:16]


CHECK_PREFIX = ".pisa_fab-check-"


def check_files(folder: Path, token: str, hosts: int) -> tuple[Path, list[Path]]:
    """Give the hidden files of one `check`: what it writes for all hosts, and what each host answers."""
    return folder / f"{CHECK_PREFIX}{token}", [
        folder / f"{CHECK_PREFIX}{token}.{number}" for number in range(hosts)
    ]


FOLDER_JOBS = 10_000  # jobs whose files share a folder


def folders_of(job: int) -> tuple[str, ...]:
    """Give where in each folder of outputs a job's files may be: by the rule, then by that of older versions.

    Each can stand before a file name: "" is the folder itself, that of job 12345 is "10000/".
    """
    return ("",) if job < FOLDER_JOBS else (f"{job - job % FOLDER_JOBS}/", "")


def attempt_names(job: int, attempt: int) -> tuple[str, str]:
    """Give the names of an attempt's files in the folder of attempts: `0007.2.out`, `10000/12345.2.out`."""
    return stream_files(f"{folders_of(job)[0]}{job_name(job)}.{attempt}")


def job_names(job: int) -> tuple[str, str]:
    """Give the names of a job's files in the folders of published outputs: `0007.out`, `10000/12345.out`."""
    return stream_files(folders_of(job)[0] + job_name(job))


def stream_files(stem: str) -> tuple[str, str]:
    """Give the names of the two files of a job (`0007`) or of an attempt (`0007.2`)."""
    return f"{stem}.out", f"{stem}.err"
