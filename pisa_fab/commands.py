"""What each command does, from files to an exit code. No Invoke here: `tasks` gives these their options.

Imports are made where they are needed: `dryrun` starts without Fabric, `--help` without anything.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pisa_fab.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, PisaError, PoolError, UsageError

if TYPE_CHECKING:
    from pisa_fab.history import History
    from pisa_fab.model import Batch, Cluster, Host
    from pisa_fab.numbering import Numbering
    from pisa_fab.pool import Pool

DEFAULT_JOBS = "jobs.yaml"
DEFAULT_CLUSTER = "cluster.yaml"


def load_batch(jobs: str) -> Batch:
    """Read the jobs file. Raises SpecError or UsageError."""
    from pisa_fab import specs

    path = Path(jobs or DEFAULT_JOBS)
    if not jobs and not path.exists():
        raise UsageError(
            f"no jobs file was named and there is no {DEFAULT_JOBS} here", "name one: --jobs FILE"
        )
    return specs.load_batch(path)


def load_cluster(batch: Batch, cluster: str, configured: str) -> Cluster | None:
    """Read the cluster file; None where none is named anywhere: this machine does the work. Raises SpecError.

    Looked for in this order: the option, the jobs file, `cluster.yaml` beside it, Invoke's configuration.
    """
    from pisa_fab import specs

    beside = batch.source.parent / DEFAULT_CLUSTER
    if cluster:
        return specs.load_cluster(Path(cluster))
    if batch.cluster is not None:
        return specs.load_cluster(batch.cluster)
    if beside.exists():
        return specs.load_cluster(beside)
    return specs.load_cluster(Path(configured).expanduser()) if configured else None


def this_machine() -> Cluster:
    """Give the pool that there is without a cluster file: this machine, a slot for each core we may use."""
    from pisa_fab.model import Cluster, Host

    return Cluster((Host(socket.gethostname(), slots=len(os.sched_getaffinity(0))),))


def number(batch: Batch) -> tuple[History, Numbering]:
    """Give what the batch's journal amounts to, and the number of every job of the batch."""
    from pisa_fab.numbering import Numbering
    from pisa_fab.run import read_history

    history = read_history(batch.output)
    return history, Numbering.of(batch.plan, history.numbers(), history.next_number)


# -- submit -------------------------------------------------------------------------------------------------


def submit(
    batch: Batch,
    cluster: Cluster | None,
    *,
    config: Any = None,
    log: bool = False,
    retry_failed: bool = False,
    rerun: bool = False,
) -> int:
    """Run what is not finished yet, and give the exit code. Raises PisaError.

    `config` is the Fabric configuration for connections, None to read the configuration files.
    """
    from pisa_fab.events import RunClosed
    from pisa_fab.head import Head
    from pisa_fab.messages import margin_of
    from pisa_fab.model import Policy
    from pisa_fab.progress import plural, view
    from pisa_fab.run import open_run
    from pisa_fab.worker import clock

    pool_of = cluster or this_machine()
    slots = plural(sum(host.slots for host in pool_of.hosts), "slot")
    lease = pool_of.lease
    policy = Policy(batch.retries, batch.max_losses, lease, margin_of(lease), batch.stop_after)
    with open_run(batch, waiting=print) as run:
        began = clock()
        run.begin(policy, began, rerun=rerun, retry_failed=retry_failed)
        scheduler = run.history.scheduler
        if run.journal.cut:
            print(
                f"the end of the journal was torn and is cut off ({run.journal.cut} bytes); nothing is lost"
            )
        if scheduler.finished:
            run.record(RunClosed("finished"), began)
            print(f"{batch.output.name}: nothing left to run")
            return summarise(batch, run.history, "finished", 0, 0.0)
        unfinished = scheduler.unfinished
        where = plural(len(pool_of.hosts), "host") if cluster else "this machine (there is no cluster file)"
        print(
            f"{batch.output.name}: {unfinished} of {plural(len(scheduler.jobs), 'job')} to run, "
            f"{slots} on {where}",
            flush=True,
        )
        with view(log=log) as shown:
            file = ClusterFile(cluster.source) if cluster and cluster.source else None
            reason = Head(run, pool_of, pool_maker(cluster, config), shown, file).work()
        return summarise(batch, run.history, reason, unfinished - scheduler.unfinished, clock() - began)


def pool_maker(cluster: Cluster | None, config: Any) -> Callable[[Sequence[Host]], Pool]:
    """Give what makes the links to hosts: over SSH, or to this machine."""
    from pisa_fab.pool import Pool

    def make(hosts: Sequence[Host]) -> Pool:
        return Pool.over_ssh(hosts, config) if cluster else Pool.on_this_machine(hosts[0].name)

    return make


class ClusterFile:
    """The cluster file of a run that is at work, which a person may change meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._look()

    def _look(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def news(self, *, anyway: bool) -> Cluster | None:
        """Give what it says, if it has changed or `anyway` is true. Raises SpecError."""
        from pisa_fab import specs

        seen = self._look()
        if seen == self._seen and not anyway:
            return None
        self._seen = seen
        return specs.load_cluster(self.path)


def summarise(batch: Batch, history: History, reason: str, ended: int, seconds: float) -> int:
    """Say how it ended and where everything is; give the exit code."""
    from pisa_fab.progress import HOPELESS, counted, duration, problems

    what = "" if ended == len(history.scheduler.jobs) else f"; {ended} of them"
    pace = f"{what} in {duration(seconds)}" if ended else ""
    print(f"{batch.output.name}: {counted(history)}{pace}")
    for line in problems(history):
        print(line)
    print(f"outputs: {short(batch.output)}   which job is which: {short(batch.assignments)}")
    if reason == "no host":
        raise PoolError(
            f"no usable host was left; {history.scheduler.unfinished} jobs have not been run",
            "mend what is said of the hosts above, then submit again: it goes on where it stopped",
        )
    if reason == "interrupted":
        return EXIT_INTERRUPTED
    return EXIT_FAILED if history.failed or reason == HOPELESS else EXIT_OK


def short(path: Path) -> str:
    """Give a path as short as it can be written from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# -- the others ---------------------------------------------------------------------------------------------


def dryrun(batch: Batch, *, as_json: bool = False) -> int:
    """Show every job with its command line and write the assignment file. Raises PisaError."""
    import json
    import shlex

    from pisa_fab.assignments import write_assignments

    history, numbering = number(batch)
    write_assignments(batch, numbering, history.records)
    for job in numbering.jobs(batch.plan):
        if as_json:
            print(json.dumps({"job": job.name, "argv": job.argv, "env": dict(job.env)}))
        else:
            print(f"{job.name}  {shlex.join(job.argv)}")
    if not as_json:
        print(f"{len(numbering.numbers)} jobs, nothing was run; written: {short(batch.assignments)}")
    return EXIT_OK


def status(batch: Batch, *, as_json: bool = False, failed: bool = False) -> int:
    """Show where the run stands."""
    from pisa_fab import status as words
    from pisa_fab.layout import Layout
    from pisa_fab.run import read_history

    history = read_history(batch.output)
    layout = Layout(batch.output)
    if as_json:
        print(words.as_json(history, layout))
    else:
        for line in words.describe(history, layout, only_failed=failed):
            print(line)
    return EXIT_OK


def collect(batch: Batch, to: str, kind: str) -> int:
    """Write the table, list what is missing in it, and give the exit code. Raises PisaError."""
    from pisa_fab import results
    from pisa_fab.layout import Layout

    kind = results.format_of(to, kind)
    history, numbering = number(batch)
    if history.opened is None:
        raise UsageError(f"{short(batch.output)}: nothing was submitted yet", "run `submit` first")
    table = results.collect(batch, history, numbering)
    if to == "-":
        results.write(table, sys.stdout, kind)
    else:
        target = Path(to) if to else Layout(batch.output).results(kind)
        save(table, target, kind)
        print(f"{len(table.rows)} rows written: {short(target.absolute())}")
    for title, jobs in (("no result", table.missing), ("output not understood", table.unparsed)):
        if jobs:
            print(f"{title} of {len(jobs)} of {len(numbering.numbers)} jobs:", file=sys.stderr)
            for line in results.lines_of(jobs):
                print(line, file=sys.stderr)
    return EXIT_OK if table.complete else EXIT_FAILED


def save(table: Any, target: Path, kind: str) -> None:
    """Write the table to a file, whole or not at all. Raises PisaError."""
    from pisa_fab import results
    from pisa_fab.table import replacing

    try:
        with replacing(target) as file:
            results.write(table, file, kind)
    except OSError as error:
        raise PisaError(
            f"{target}: cannot be written: {error.strerror}", "name another: --to FILE"
        ) from error
