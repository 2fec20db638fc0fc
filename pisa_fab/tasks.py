"""Batches of jobs on a pool of PCs.

That is what `inv --list` says of the namespace of somebody who adds this module to a collection. Here are the
Invoke tasks: options in, `commands` called, errors turned into a clean exit. They work as `inv NAME` and
`fab NAME` where a tasks.py imports them, as `inv NS.NAME` where a project adds them to its own, as
`pisa-fab NAME` anywhere, and as functions: `submit(c, jobs="a.yaml")`. Nothing heavy is imported here: every
`inv` in a project that uses them pays for it.
"""

from __future__ import annotations

import atexit
import codecs
import functools
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from invoke.config import DataProxy
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

from pisa_fab import commands, gathering
from pisa_fab.errors import EXIT_FAILED, EXIT_INTERRUPTED, PisaError, UsageError

if TYPE_CHECKING:
    from pisa_fab.api import Batch, Pool

__all__ = ["cancel", "check", "collect", "dryrun", "here", "hosts", "init", "logs", "status", "submit"]

DEFAULTS = ("jobs", "cluster", "slots", "owner", "notify")  # keys below `pisa:` in Invoke's configuration
P = ParamSpec("P")
# A task's body: it gets the context, the Connections of `fab -H` (none elsewhere), and its options.
Body = Callable[Concatenate[Context, Sequence[Any], P], int]

JOBS = "the jobs file, or a run directory that has one (default: jobs.yaml here)"
CLUSTER = "the cluster file (default: cluster: in the jobs file, cluster.yaml beside it, then pisa.cluster)"
ONLY = "the numbers of jobs, as in 3,7-9"
# The short options; Invoke would take the next free letter of each name, and shift them with each new option.
SHORT = {
    "cluster": "c",
    "dry-run": "d",
    "failed": "f",
    "follow": "f",
    "format": "f",
    "jobs": "j",
    "log": "l",
    "only": "o",
    "retry-failed": "r",
    "script": "s",
    "sweep": "w",
    "to": "t",
    "watch": "w",
}


class PisaTask(Task[Any]):
    """A task whose short options are chosen by hand."""

    def arg_opts(self, name: str, default: str, taken_names: set[str]) -> dict[str, Any]:
        """Describe an option to Invoke's parser."""
        options = super().arg_opts(name, default, taken_names)
        long = options["names"][0]
        options["names"] = [long, *([SHORT[long]] if long in SHORT else [])]
        return options


def pisa_task(**settings: Any) -> Callable[[Body[P]], Task[Any]]:
    """Make a task of a body that gives an exit code; under `fab -H` it is run once, over all the hosts."""

    def decorate(body: Body[P]) -> Task[Any]:
        @functools.wraps(body)
        def run(c: Context, *args: P.args, **kwargs: P.kwargs) -> None:
            def work(context: Context, connections: Sequence[Any]) -> None:
                cleanly(lambda: body(context, connections, *args, **kwargs))

            gathering.add(c, work)

        made: Task[Any] = task(klass=PisaTask, pre=[gathering.BEGIN], post=[gathering.FINISH], **settings)(
            without_connections(run)
        )
        return made

    return decorate


def without_connections(run: Callable[..., None]) -> Callable[..., None]:
    """Hide the second parameter of a body from Invoke, which makes options of what it sees."""
    import inspect

    signature = inspect.signature(run)
    shown = [value for name, value in signature.parameters.items() if name != "connections"]
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]  # any function has it
    return run


def cleanly(work: Callable[[], int]) -> None:
    """End the program with the exit code of this work, and with one line for what a user can mend."""
    print_any_file_name()
    collects = gc.isenabled()
    start_quickly()
    try:
        code = work()
        sys.stdout.flush()
    except PisaError as error:
        sys.stdout.flush()
        raise Exit(str(error), code=error.exit_code) from error
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`); Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(code=EXIT_FAILED) from None
    except KeyboardInterrupt:  # for which Invoke has the exit code of jobs that failed
        raise Exit(code=EXIT_INTERRUPTED) from None
    finally:
        if collects:  # for the task of a user that has called this one as a function
            gc.enable()
    if code:
        raise Exit(code=code)


def start_quickly() -> None:
    """Do without what Python and Invoke do at the start and the end of a program that is of no use to ours.

    No garbage is looked for while modules are imported (until `commands.look_for_garbage`), nor among all
    that there is when the program ends. And our modules may be kept compiled, which Invoke forbids for the
    sake of tasks.py: that one has been read by now. PYTHONDONTWRITEBYTECODE still holds.
    """
    gc.disable()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


def print_any_file_name() -> None:
    """Let standard output take every text: bytes that are no UTF-8 as they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def configured(c: Context, key: str) -> str:
    """Give a default from `pisa:` in Invoke's configuration, or its variable; "" where there is none.

    Invoke itself looks only for variables of keys that a configuration file has, too. Raises UsageError.
    """
    settings = c.config.get("pisa")
    if settings is not None and not isinstance(settings, (dict, DataProxy)):
        raise UsageError(
            f"pisa: of Invoke's configuration must have keys below it, not {settings!r}",
            "as in pisa: {jobs: jobs.yaml}",
        )
    unknown = sorted(set(settings or ()) - set(DEFAULTS))
    if unknown:
        raise UsageError(
            f'unknown key "{unknown[0]}" below pisa: of Invoke\'s configuration',
            f"known are {', '.join(DEFAULTS)}",
        )
    value = settings.get(key) if settings else None
    if isinstance(value, (bool, list, dict, DataProxy)):
        raise UsageError(f"pisa.{key} of Invoke's configuration must be a single text or number")
    if value is None:
        name = f"PISA_{key.upper()}"
        value = os.environ.get(f"INVOKE_{name}") or os.environ.get(f"FABRIC_{name}")
    return str(value or "")


def number_of(text: str, name: str) -> int:
    """Read a number that is not negative, 0 for "". Raises UsageError."""
    if text and not text.isdecimal():
        raise UsageError(f"{name} must be a whole number, not {text!r}")
    return int(text or 0)


def the_batch(c: Context, jobs: str) -> Batch:
    """Give the batch of the jobs file that is named, or configured, or here. Raises PisaError."""
    return commands.load_batch(jobs or configured(c, "jobs"))


def batch_if_any(c: Context, jobs: str) -> Batch | None:
    """Give the batch of the jobs file that is named, or configured, or here; None if there is none."""
    named = jobs or configured(c, "jobs")
    return commands.load_batch(named) if named or Path(commands.DEFAULT_JOBS).exists() else None


def the_pool(c: Context, connections: Sequence[Any], batch: Batch | None, cluster: str, slots: int) -> Pool:
    """Give the pool for a batch; None stands for the current folder. Raises PisaError."""
    file = commands.find_cluster(batch, cluster, configured(c, "cluster"))
    slots = slots or number_of(configured(c, "slots"), "pisa.slots")
    owner = configured(c, "owner")
    return commands.load_pool(file, config=c.config, connections=connections, slots=slots, owner=owner)


@pisa_task(
    iterable=["sweep"],
    help={
        "jobs": JOBS,
        "cluster": CLUSTER,
        "log": "print each action",
        "dry-run": "do as dryrun does: show the jobs, run nothing",
        "retry-failed": "run jobs again that have failed, or were cancelled",
        "rerun": "run all jobs again",
        "only": f"run only these jobs: {ONLY}",
        "detach": "go on in the background, also after logging out",
        "slots": "jobs at once on each host, outside of the windows of the cluster file",
        "script": "without a jobs file: the Python script to run",
        "command": "without a jobs file: the program to run, with its first arguments",
        "sweep": "its arguments that vary, as in -n=0..40 or --mode=fast,exact; may be given often",
        "args": "its arguments that are the same for every job",
        "venv": "its virtual environment (default: venv or .venv here)",
        "output": "the run directory (default: the script's name with _run)",
        "results": "how collect reads what it prints: json, csv or regex:...",
        "timeout": "how long a job may take, as in 90, 15m or 2h",
        "retries": "how often a job that failed is run again",
    },
)
def submit(
    c: Context,
    connections: Sequence[Any],
    jobs: str = "",
    cluster: str = "",
    log: bool = False,
    dry_run: bool = False,
    retry_failed: bool = False,
    rerun: bool = False,
    only: str = "",
    detach: bool = False,
    slots: int = 0,
    script: str = "",
    command: str = "",
    sweep: Sequence[str] | None = None,  # any other default would be the option's type to Invoke
    args: str = "",
    venv: str = "",
    output: str = "",
    results: str = "",
    timeout: str = "",
    retries: str = "",
) -> int:
    """Run every job of a jobs file that is not finished yet.

    Come back later with the same command: it goes on where it stopped.
    """
    options = {
        "script": script,
        "command": command,
        "args": args,
        "venv": venv,
        "output": output,
        "results": results,
        "timeout": timeout,
        "retries": retries,
    }
    batch = commands.ad_hoc_or_file(
        jobs, lambda: the_batch(c, jobs), sweep=sweep or (), cluster=cluster, **options
    )
    pool = the_pool(c, connections, batch, cluster, slots)
    if dry_run:
        return commands.dryrun(batch)
    return commands.submit(
        batch,
        pool,
        log=log,
        only=only,
        retry_failed=retry_failed,
        rerun=rerun,
        detach=detach,
        notify=configured(c, "notify"),
    )


@pisa_task(help={"jobs": JOBS, "cluster": CLUSTER, "json": "an object a line, with each job's argv and env"})
def dryrun(
    c: Context, connections: Sequence[Any], jobs: str = "", cluster: str = "", json: bool = False
) -> int:
    """Show every job with its command line; write the assignment file; run nothing."""
    batch = the_batch(c, jobs)
    the_pool(c, connections, batch, cluster, 0)  # a mistake in the cluster file shows here
    return commands.dryrun(batch, as_json=json)


@pisa_task(
    help={
        "jobs": JOBS,
        "watch": "show it until the run has ended",
        "job": "all that is known of one job, and why it does not run",
        "json": "one JSON object",
        "failed": "only the jobs that failed, all of them",
    }
)
def status(
    c: Context,
    connections: Sequence[Any],
    jobs: str = "",
    watch: bool = False,
    job: str = "",
    json: bool = False,
    failed: bool = False,
) -> int:
    """Show where a run stands, during it and after, from any PC that sees the home."""
    batch = the_batch(c, jobs)
    if watch and (job or json or failed):
        raise UsageError("--watch cannot be combined with --job, --json or --failed")
    return commands.watch(batch) if watch else commands.status(batch, job=job, as_json=json, failed=failed)


@pisa_task(help={"jobs": JOBS, "cluster": CLUSTER, "json": "one JSON object"})
def hosts(
    c: Context, connections: Sequence[Any], jobs: str = "", cluster: str = "", json: bool = False
) -> int:
    """Show what each host may run now, why, and when that changes."""
    batch = batch_if_any(c, jobs)
    return commands.hosts(the_pool(c, connections, batch, cluster, 0), batch, as_json=json)


@pisa_task(
    help={
        "stop": "end your jobs on this PC, and let none begin here",
        "start": "let your jobs run here again",
    }
)
def here(c: Context, connections: Sequence[Any], stop: bool = False, start: bool = False) -> int:
    """Show whose jobs run on this PC, how to ask, and how to stop them here."""
    if stop and start:
        raise UsageError("--stop and --start cannot both be given")
    return commands.here(stop=stop, start=start)


@pisa_task(
    positional=["job"],
    help={
        "job": "its number, as 7 or 0007; 7.2 is its second attempt",
        "jobs": JOBS,
        "follow": "go on until the job has ended",
        "err": "its standard error",
    },
)
def logs(
    c: Context,
    connections: Sequence[Any],
    job: str,
    jobs: str = "",
    follow: bool = False,
    err: bool = False,
) -> int:
    """Show what a job has printed, while it runs and after."""
    if job in ("-h", "--help"):  # Invoke takes whatever comes first for the number
        raise UsageError("--help goes before this command", "write: --help logs")
    return commands.logs(the_batch(c, jobs), job, follow=follow, stderr=err)


@pisa_task(help={"jobs": JOBS, "only": f"only these jobs, which are then not run: {ONLY}"})
def cancel(c: Context, connections: Sequence[Any], jobs: str = "", only: str = "") -> int:
    """Stop a run, or some of its jobs, from any PC that sees the home."""
    return commands.cancel(the_batch(c, jobs), only)


@pisa_task(
    help={
        "jobs": JOBS,
        "to": "the file to write, - for standard output (default: results.csv in the output folder)",
        "format": "csv or json (default: by the file's ending)",
    }
)
def collect(c: Context, connections: Sequence[Any], jobs: str = "", to: str = "", format: str = "") -> int:
    """Write one table: a row a job, its arguments, how it went, what it printed."""
    return commands.collect(the_batch(c, jobs), to, format)


@pisa_task(
    help={
        "jobs": JOBS,
        "cluster": CLUSTER,
        "accept-new": "save the host keys that are not known yet",
        "install-key": "put your public key where a password still works",
        "json": "one JSON object",
    }
)
def check(
    c: Context,
    connections: Sequence[Any],
    jobs: str = "",
    cluster: str = "",
    accept_new: bool = False,
    install_key: bool = False,
    json: bool = False,
) -> int:
    """Say of every host whether it can do the work, and if not, why and what helps."""
    batch = batch_if_any(c, jobs)
    pool = the_pool(c, connections, batch, cluster, 0)
    return commands.check(pool, batch, accept_new=accept_new, install_key=install_key, as_json=json)


@pisa_task(
    help={
        "script": "the Python script to run (default: the only one here)",
        "hosts": "the PCs, as in pc[01-34]",
        "slots": "jobs at once on each",
        "venv": "its virtual environment (default: venv or .venv here)",
        "output": "the run directory",
    }
)
def init(
    c: Context,
    connections: Sequence[Any],
    script: str = "",
    hosts: str = "",
    slots: str = "",
    venv: str = "",
    output: str = "",
) -> int:
    """Write a first jobs.yaml, cluster.yaml and tasks.py; what is there stays."""
    named = hosts or ",".join(connection.original_host for connection in connections)
    return commands.init(script=script, hosts=named, slots=slots, venv=venv, output=output)
