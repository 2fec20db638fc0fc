"""What head and worker say to each other, as the head makes and reads it; the list is at the top of `worker`.

Only text and numbers: nothing is sent here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from pisa_fab.allowance import least_nice
from pisa_fab.events import AttemptStarted, Ending, HostReady, Outcome, SecondStarted
from pisa_fab.layout import attempt_names, job_names, mark_on_host, note_on_host, place_on_host
from pisa_fab.link import Message, worker_digest
from pisa_fab.model import Batch, Cluster, Host, job_name
from pisa_fab.parcel import template_parcel
from pisa_fab.run import Run

Start = AttemptStarted | SecondStarted  # what a worker is sent an order for

_ENDINGS = {ending.value: ending for ending in Ending}
STOP_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
IMPORT_PATIENCE = 120.0  # seconds that a template's imports may take
TEMPLATE_IDLE = 60.0  # seconds without a job, after which a template gives back its memory


class Notices:
    """Passes on to a person what workers say, and what holds for all hosts from the first one alone."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said: set[str] = set()

    def pass_on(self, host: str, message: Message) -> None:
        """Tell what a worker's `notice` says, unless another one has told it."""
        text = message["text"]
        if text not in self.said:
            self.say(f"{host}: {text}")
        if message.get("once"):
            self.said.add(text)


def lease_grace(lease: float) -> float:
    """Give how many seconds a worker gives its jobs to end when its lease is over."""
    return min(STOP_GRACE, lease / 3)


def margin_of(lease: float) -> float:
    """Give how many seconds longer than a lease the head waits: a worker needs time to end its jobs."""
    return lease_grace(lease) + max(1.0, 0.05 * lease)


def setup(run: Run, host: Host, cluster: Cluster, bounds: Message) -> Message:
    """Give the first message to a worker; `bounds` is what it may run, and when."""
    batch, layout, lease = run.batch, run.layout, cluster.lease
    return {
        "op": "setup",
        "workdir": str(batch.workdir),
        "venv": None if batch.venv is None else str(batch.venv),
        "nonce_file": str(layout.nonce),
        "nonce": run.nonce,
        "folders": layout.folders,
        "env": {"PISA_OUTPUT": str(batch.output), "PISA_HOST": host.name},
        "nice": least_nice(host, batch.limits.nice),
        "memory": batch.limits.memory,
        "preload": preload_of(batch),
        "bounds": bounds,
        "note": note_on_host(run.secret, host.name),
        "title": f"pisa_fab: jobs for {batch.output.name}, see: pisa-fab here",
        "facts": {
            "batch": batch.output.name,
            "head": socket.gethostname(),
            "contact": cluster.contact,
        },
        "threads": batch.limits.threads,
        "lease": lease,
        "lease_grace": lease_grace(lease),
        "grace": STOP_GRACE,
        "place": place_on_host(run.secret, host.name),
        "mark": mark_on_host(run.secret, host.name),
        "digest": worker_digest(),
        "epoch": run.epoch,
    }


def preload_of(batch: Batch) -> Message | None:
    """Give what a worker needs to make jobs from a template, None if it shall not."""
    if not batch.preload:
        return None
    return {
        "modules": batch.preload,
        "parcel": template_parcel(),
        "patience": IMPORT_PATIENCE,
        "idle": TEMPLATE_IDLE,
    }


def order(run: Run, start: Start) -> Message:
    """Give the message that starts an attempt."""
    batch = run.batch
    job = batch.plan.job(run.numbering.index(start.job), start.job)
    name = job_name(start.job)
    own = {"PISA_JOB": name, "PISA_ATTEMPT": str(start.attempt)}
    return {
        "op": "run",
        "job": start.job,
        "attempt": start.attempt,
        "argv": job.argv,
        "env": own | dict(job.env),
        "timeout": batch.limits.timeout,
        "files": attempt_names(start.job, start.attempt),
        "published": job_names(start.job),
    }


def outcome_of(data: dict[str, object]) -> Outcome:
    """Make the outcome of what the worker reported. Raises TypeError or KeyError if it is none."""
    return Outcome(**{**data, "ending": _ENDINGS[data["ending"]]})  # type: ignore[arg-type,index]  # from JSON


def ready_of(host: str, slots: int, message: Message) -> HostReady:
    """Make the event of a worker's `ready`."""
    holds = tuple((job, attempt) for job, attempt in message["holds"])
    return HostReady(
        host, slots, message["python"], message["cores"], message["machine"], message["resumed"], holds
    )
