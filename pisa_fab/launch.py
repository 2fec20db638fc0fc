"""One run of a batch, from the lock to the last word of the journal: what `submit` and the Python API share.

Here the rooms are wired together for a run; what a person reads when it is over is put together here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pisa_fab.errors import PoolError
from pisa_fab.events import RunClosed
from pisa_fab.head import ClusterFile, Head
from pisa_fab.history import History
from pisa_fab.messages import margin_of
from pisa_fab.model import Batch, Cluster, Policy
from pisa_fab.progress import CLOSED, PlainView, counted, duration, plural, problems, short
from pisa_fab.roster import MakeLinks
from pisa_fab.run import Wish, open_run
from pisa_fab.status import exit_code
from pisa_fab.worker import clock


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
    slots = plural(sum(host.slots for host in cluster.hosts), "slot")
    policy = Policy(
        batch.retries, batch.max_losses, cluster.lease, margin_of(cluster.lease), batch.stop_after
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
            f"{slots} on {where or plural(len(cluster.hosts), 'host')}"
        )
        at_work()
        with view:
            reason = Head(run, cluster, make_links, view, file).work()
        return Ended(reason, unfinished - scheduler.unfinished, clock() - began, history)


def summary(batch: Batch, ended: Ended) -> Iterator[str]:
    """Say how a run ended, what failed, and where everything is."""
    history = ended.history
    what = "" if ended.jobs == len(history.scheduler.jobs) else f"; {ended.jobs} of them"
    pace = f"{what} in {duration(ended.seconds)}" if ended.jobs else ""
    yield f"{batch.output.name}: {counted(history)}{pace}"
    yield from problems(history)
    yield f"outputs: {short(batch.output)}   which job is which: {short(batch.assignments)}"
