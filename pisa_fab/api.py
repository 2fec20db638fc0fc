"""The Python API: `Batch`, `Pool`, `Results`. The tasks are made of it, too.

    from pisa_fab import Batch, Pool

    batch = Batch.load("jobs.yaml")
    results = Pool.load("cluster.yaml").run(batch)
    for result in results:
        print(result.arguments, result.stdout)

What they do is done by the rooms behind them; here is what a program may count on from version to version.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pisa_fab.errors import UsageError
from pisa_fab.layout import Layout
from pisa_fab.model import MIN_FREE_MEMORY, MIN_FREE_SPACE, Cluster, Host, Job
from pisa_fab.model import Batch as BatchSpec
from pisa_fab.numbering import Numbering
from pisa_fab.what_became import Result, Results

if TYPE_CHECKING:
    from pisa_fab.events import JobRecord
    from pisa_fab.history import History
    from pisa_fab.launch import Ended
    from pisa_fab.pool import Access, LinkGroup
    from pisa_fab.progress import PlainView
    from pisa_fab.ssh_ahead import Inquiry

__all__ = ["Batch", "Pool", "Result", "Results"]

Ask = Callable[[str], str]


class Batch:
    """What one jobs file describes.

    Attributes:
        spec: all that is known of it.
        jobs_file: the text of a jobs file that a run puts into the run directory; "" where there is a file.
    """

    def __init__(self, spec: BatchSpec, jobs_file: str = "") -> None:
        self.spec = spec
        self.jobs_file = jobs_file

    @classmethod
    def load(cls, path: str | Path) -> Batch:
        """Read a jobs file, YAML or PISA's TOML; a folder stands for its jobs.yaml. Raises SpecError."""
        from pisa_fab import specs

        return cls(specs.load_batch(Path(path)))

    @classmethod
    def from_options(cls, *, sweep: Sequence[str] = (), cluster: str = "", **options: str) -> Batch:
        """Make a batch of what `submit` takes instead of a jobs file, relative to the current folder.

        `sweep` has texts such as `-n=0..40`; `options` are `script`, `command`, `args`, `venv`, `output`,
        `results`, `timeout` and `retries`, all texts. Raises SpecError.
        """
        from pisa_fab import specs

        return cls(*specs.ad_hoc_batch(sweep=sweep, cluster=cluster, workdir=Path.cwd(), **options))

    @property
    def output(self) -> Path:
        """The run directory."""
        return self.spec.output

    @property
    def layout(self) -> Layout:
        """The paths under the run directory."""
        return Layout(self.output)

    def __len__(self) -> int:
        return len(self.spec.plan)

    def __iter__(self) -> Iterator[Job]:
        """Give every job with its number, as `dryrun` shows them. Raises RunError for a damaged journal."""
        return self.known()[1].jobs(self.spec.plan)

    def known(self) -> tuple[Mapping[int, JobRecord], Numbering]:
        """Give what the journal says its jobs are, and the number of every job. Raises RunError."""
        from pisa_fab.known_jobs import numbered

        return numbered(self.spec)

    def look(self) -> tuple[History, Numbering]:
        """Give what the journal amounts to now, and the number of every job. Raises RunError."""
        from pisa_fab.run import read_history

        history = read_history(self.output)
        return history, self.numbering(history)

    def numbering(self, history: History) -> Numbering:
        """Give the number of every job, as a journal has given them out."""
        return Numbering.of(self.spec.plan, history.numbers(), history.next_number)

    def results(self) -> Results:
        """Give what is known of every job now, while it runs and after. Raises RunError."""
        return Results(self.spec, *self.look())


class Pool:
    """The hosts that do the work, and how they are reached.

    Attributes:
        cluster: the hosts.
        is_remote: whether they are reached over SSH; else it is this machine.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        is_remote: bool = True,
        config: object = None,
        connections: Mapping[str, Any] | None = None,
    ) -> None:
        self.cluster = cluster
        self.is_remote = is_remote
        self._config = config
        self._connections = connections or {}
        self._asked: Inquiry | None = None

    @classmethod
    def load(cls, path: str | Path, *, config: object = None) -> Pool:
        """Read a cluster file, YAML or PISA's JSON. Raises SpecError.

        `config` is a `fabric.Config` for the connections; None reads Fabric's configuration files.
        """
        from pisa_fab import specs

        return cls(specs.load_cluster(Path(path)), config=config)

    @classmethod
    def of(cls, *hosts: str, slots: int = 1, owner: str = "pause", config: object = None) -> Pool:
        """Make a pool of hosts, written as in a cluster file: `Pool.of("pc[01-34]", "me@far:2222")`.

        `owner` says what jobs do when somebody else needs a PC: `pause`, `requeue` or `ignore`. Raises
        UsageError for what is no name of a host, and for no host at all.
        """
        from pisa_fab import specs

        if not hosts:
            raise UsageError("a pool needs at least one host", 'as in Pool.of("pc01")')
        cluster = Cluster(specs.hosts_named(hosts, 1, owner), min_free_space=MIN_FREE_SPACE)
        return cls(cluster, config=config).with_slots(slots)

    @classmethod
    def over(
        cls,
        connections: Sequence[Any],
        *,
        settings: Cluster | None = None,
        slots: int = 1,
        owner: str = "pause",
    ) -> Pool:
        """Make a pool of the hosts of Fabric Connections, with their users, keys and gateways.

        A host that `settings`, a cluster, also has gets its slots and the like from there; for others `owner`
        says what jobs do when somebody else needs the PC: `pause`, `requeue` or `ignore`. Raises UsageError.
        """
        from pisa_fab import specs
        from pisa_fab.pool import host_of

        given = {host.name: host for host in settings.hosts} if settings else {}
        hosts: dict[str, Host] = {}
        unknown = Host("", slots, owner=specs.owner_named(owner), min_free_memory=MIN_FREE_MEMORY)
        for connection in connections:
            named = host_of(connection)
            known = given.get(named.name, replace(unknown, name=named.name))
            hosts[named.name] = replace(known, user=named.user or known.user, port=named.port or known.port)
        cluster = replace(
            settings or Cluster((), min_free_space=MIN_FREE_SPACE), hosts=tuple(hosts.values()), source=None
        )
        by_name = {connection.original_host: connection for connection in connections}
        return cls(cluster, config=connections[0].config, connections=by_name)

    @classmethod
    def this_machine(cls, slots: int = 0) -> Pool:
        """Make a pool of this machine, with so many slots, or one for each core that we may use."""
        host = Host(socket.gethostname(), slots=slots or len(os.sched_getaffinity(0)))
        return cls(Cluster((host,)), is_remote=False)

    def with_slots(self, slots: int) -> Pool:
        """Give the same pool with so many slots on each host. Raises UsageError if that is less than one."""
        if slots < 1:
            raise UsageError(f"a host needs at least one slot, not {slots}")
        hosts = tuple(replace(host, slots=slots) for host in self.cluster.hosts)
        cluster = replace(self.cluster, hosts=hosts, source=None)
        return Pool(cluster, is_remote=self.is_remote, config=self._config, connections=self._connections)

    def __len__(self) -> int:
        return len(self.cluster.hosts)

    def ask_ahead(self) -> None:
        """Begin to ask ssh about the hosts, so that the answers are there when `access` needs them."""
        from pisa_fab.ssh_ahead import ask_about

        self._asked = ask_about(self.cluster.hosts) if self.is_remote and not self._connections else None

    def access(self, ask: Ask | None = None, *, accept_new: bool = False, password: str = "") -> Access:
        """Give how the hosts are reached; `ask` is asked for passphrases that are needed.

        Raises UsageError where ~/.ssh/config cannot be used.
        """
        from pisa_fab.pool import Access

        access = Access(
            self._config, self._connections, accept_new=accept_new, password=password, asked=self._asked
        )
        access.resolve(self.cluster.hosts)
        if ask is not None:
            access.unlock(self.cluster.hosts, ask)
        return access

    def run(
        self,
        batch: Batch,
        *,
        only: Sequence[int] | str | None = None,
        retry_failed: bool = False,
        rerun: bool = False,
        show: bool = False,
    ) -> Results:
        """Run what is not finished yet, and give what became of every job.

        Args:
            batch: what to run.
            only: the numbers of the jobs to run, or a text such as `3,7-9`; None for all.
            retry_failed: whether to run jobs again that have failed.
            rerun: whether to run all jobs again.
            show: whether to show on standard output how it goes, as `submit` does.

        Failed jobs raise nothing: see `Results.failed`. Raises PoolError if no usable host was left, RunError
        if the run directory cannot be used, UsageError for a number that no job has.
        """
        from pisa_fab.progress import NoView, view

        ended = self.launch(
            batch, view() if show else NoView(), only=only, retry_failed=retry_failed, rerun=rerun
        )
        ended.raise_if_alone()
        return Results(batch.spec, ended.history, batch.numbering(ended.history), ended.reason)

    def launch(
        self,
        batch: Batch,
        view: PlainView,
        *,
        only: Sequence[int] | str | None = None,
        retry_failed: bool = False,
        rerun: bool = False,
        access: Access | None = None,
        at_work: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Do what `run` does, shown by a view; give how it ended. Raises PisaError.

        `access` is how the hosts are reached, if that was found out already; `at_work` is called when the run
        directory is held and the work begins.
        """
        from pisa_fab.cluster_file import ClusterFile
        from pisa_fab.launch import launch
        from pisa_fab.pool import LinkGroup
        from pisa_fab.run import Wish

        def this_machine(hosts: Sequence[Host]) -> LinkGroup:
            return LinkGroup.on_this_machine(hosts[0].name)

        if isinstance(only, str):
            only = batch.known()[1].chosen(only)
        wanted = None if only is None else tuple(sorted(set(only)))
        source = self.cluster.source
        return launch(
            batch.spec,
            self.cluster,
            (access or self.access()).links if self.is_remote else this_machine,
            Wish(retry_failed, rerun, wanted, batch.jobs_file),
            view,
            where="" if self.is_remote else "this machine (there is no cluster file)",
            file=ClusterFile(source) if source else None,
            at_work=at_work,
        )
