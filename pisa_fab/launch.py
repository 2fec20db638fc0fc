"""One run of a batch, from the lock to the last word of the journal: what `submit` and the Python API share.

Here the rooms are wired together for a run; what a person reads when it is over is put together here, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import tzinfo

from pisa_fab.errors import PoolError
from pisa_fab.events import JobState, RunClosed
from pisa_fab.head import ClusterFile, Head
from pisa_fab.history import History
from pisa_fab.invocation import short
from pisa_fab.messages import margin_of
from pisa_fab.model import Batch, Cluster, Policy
from pisa_fab.numbering import Numbering
from pisa_fab.processes import clock
from pisa_fab.progress import CLOSED, PlainView, counted, duration, plural, problems
from pisa_fab.prospects import Prospects, refuse
from pisa_fab.roster import MakeLinks
from pisa_fab.run import Wish, open_run, read_history
from pisa_fab.specs import local_zone
from pisa_fab.status import exit_code


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        reason: in the words of `RunClosed`.
        jobs: how many jobs ended in it.
        seconds: how long it took.
        history: what the journal amounts to.
    """

    reason: str
    jobs: int
    seconds: float
    history: History

    @property
    def state(self) -> str:
        """Say it in a word for people: `succeeded`, `failed`, or what came between."""
        if self.reason != "finished":
            return CLOSED.get(self.reason, self.reason)
        return "succeeded" if self.history.all_succeeded else "failed"

    @property
    def exit_code(self) -> int:
        """What a program that did nothing else ends with."""
        return exit_code(self.history)

    def raise_if_alone(self) -> None:
        """Raise PoolError if no usable host was left."""
        if self.reason == "no host":
            unfinished = self.history.scheduler.unfinished
            raise PoolError(
                f"no usable host was left; {unfinished} jobs have not been run",
                "mend what is said of the hosts above, then submit again: it goes on where it stopped",
            )


def launch(
    batch: Batch,
    cluster: Cluster,
    make_links: MakeLinks,
    wish: Wish,
    view: PlainView,
    *,
    where: str = "",
    file: ClusterFile | None = None,
    at_work: Callable[[], None] = lambda: None,
) -> Ended:
    """Run what is not finished yet. Raises PisaError.

    `where` says in a few words where the slots are; `file` is the cluster file to look at again, None for
    none; `at_work` is called when the run directory is held and the work begins.
    """
    zone = zone_of(cluster)
    if batch.deadline is not None:
        look_ahead(batch, cluster, wish, zone)
    policy = Policy(
        batch.retries,
        batch.max_losses,
        cluster.lease,
        margin_of(cluster.lease),
        batch.stop_after,
        batch.speculate,
    )
    with open_run(batch, waiting=view.say) as run:
        began = clock()
        run.begin(policy, began, wish)
        history = run.history
        scheduler = history.scheduler
        if run.journal.cut:
            view.say(
                f"the end of the journal was torn and is cut off ({run.journal.cut} bytes); nothing is lost"
            )
        if scheduler.finished:
            run.record(RunClosed("finished"), began)
            view.say(f"{batch.output.name}: nothing left to run")
            return Ended("finished", 0, 0.0, history)
        unfinished = scheduler.unfinished
        view.say(
            f"{batch.output.name}: {unfinished} of {plural(len(scheduler.jobs), 'job')} to run, "
            f"{slots_of(cluster)} on {where or plural(len(cluster.hosts), 'host')}"
        )
        prospects = Prospects(history, batch, cluster, zone, time.time())
        prospects.begin(time.time(), view.say)
        at_work()
        with view:
            reason = Head(run, cluster, make_links, view, file, prospects).work()
        return Ended(reason, unfinished - scheduler.unfinished, clock() - began, history)


def zone_of(cluster: Cluster) -> tzinfo:
    """Give the zone by whose clock people read times: that of the pool, else of this machine."""
    return cluster.hosts[0].zone if cluster.source else local_zone()


def slots_of(cluster: Cluster) -> str:
    """Say how many slots there are by the calendars: now, and later if that is another number."""
    now = sum(host.calendar.at(time.time()).slots for host in cluster.hosts)
    most = sum(
        max([host.slots, *(window.slots for window in host.windows if window.slots is not None)])
        for host in cluster.hosts
    )
    return plural(now, "slot") + (f" now ({most} at other times)" if most > now else "")


def look_ahead(batch: Batch, cluster: Cluster, wish: Wish, zone: tzinfo) -> None:
    """Refuse a batch whose deadline cannot be kept, before anything is written. Raises PisaError."""
    history = read_history(batch.output)
    numbering = Numbering.of(batch.plan, history.numbers(), history.next_number)
    chosen = numbering.sorted if wish.only is None else wish.only
    left = [job for job in chosen if wish.rerun or history.scheduler.state(job) is not JobState.SUCCEEDED]
    refuse(batch, cluster, history, numbering, left, zone, time.time())


def summary(batch: Batch, ended: Ended) -> Iterator[str]:
    """Say how a run ended, what failed, and where everything is."""
    history = ended.history
    what = "" if ended.jobs == len(history.scheduler.jobs) else f"; {ended.jobs} of them"
    pace = f"{what} in {duration(ended.seconds)}" if ended.jobs else ""
    yield f"{batch.output.name}: {counted(history)}{pace}"
    yield from problems(history)
    yield f"outputs: {short(batch.output)}   which job is which: {short(batch.assignments)}"
