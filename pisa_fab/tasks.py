"""The Invoke tasks: options in, `commands` called, errors turned into a clean exit.

They work as `inv NAME` and `fab NAME` where a tasks.py imports them, as `inv NS.NAME` where a project adds
this module to its own collection, and as `pisa-fab NAME` anywhere. Nothing heavy is imported here: every
`inv` in a project that uses them pays for it.
"""

from __future__ import annotations

import codecs
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from pisa_fab import commands
from pisa_fab.errors import PisaError

__all__ = ["collect", "dryrun", "status", "submit"]

P = ParamSpec("P")

JOBS = "the jobs file (default: jobs.yaml here)"
CLUSTER = "the cluster file (default: cluster: in the jobs file, cluster.yaml beside it, then pisa.cluster)"


def cleanly(body: Callable[P, int]) -> Callable[P, None]:
    """Make a task's body end the program with its exit code, and with one line for what a user can mend."""

    @functools.wraps(body)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        print_any_file_name()
        try:
            code = body(*args, **kwargs)
            sys.stdout.flush()
        except PisaError as error:
            sys.stdout.flush()
            raise Exit(str(error), code=error.exit_code) from error
        except BrokenPipeError:
            # Whoever read our output has seen enough (`| head`); Python must not try to flush the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=1) from None
        if code:
            raise Exit(code=code)

    return wrapped


def print_any_file_name() -> None:
    """Let standard output take every text: bytes that are no UTF-8 as they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def configured(c: Context, key: str) -> str:
    """Give a default from `pisa:` in Invoke's configuration, "" where it has none."""
    return str(c.config.get("pisa", {}).get(key, "") or "")


@task(
    help={
        "jobs": JOBS,
        "cluster": CLUSTER,
        "log": "print each action",
        "dry-run": "do as dryrun does: show the jobs, run nothing",
        "retry-failed": "run jobs again that have failed",
        "rerun": "run all jobs again",
    }
)
@cleanly
def submit(
    c: Context,
    jobs: str = "",
    cluster: str = "",
    log: bool = False,
    dry_run: bool = False,
    retry_failed: bool = False,
    rerun: bool = False,
) -> int:
    """Run every job of a jobs file that is not finished yet.

    Come back later with the same command: it goes on where it stopped.
    """
    batch = commands.load_batch(jobs or configured(c, "jobs"))
    pool = commands.load_cluster(batch, cluster, configured(c, "cluster"))
    if dry_run:
        return commands.dryrun(batch)
    return commands.submit(batch, pool, config=c.config, log=log, retry_failed=retry_failed, rerun=rerun)


@task(help={"jobs": JOBS, "cluster": CLUSTER, "json": "an object a line, with each job's argv and env"})
@cleanly
def dryrun(c: Context, jobs: str = "", cluster: str = "", json: bool = False) -> int:
    """Show every job with its command line; write the assignment file; run nothing."""
    batch = commands.load_batch(jobs or configured(c, "jobs"))
    commands.load_cluster(batch, cluster, configured(c, "cluster"))  # a mistake in it shows here
    return commands.dryrun(batch, as_json=json)


@task(help={"jobs": JOBS, "json": "one JSON object", "failed": "only the jobs that failed, all of them"})
@cleanly
def status(c: Context, jobs: str = "", json: bool = False, failed: bool = False) -> int:
    """Show where a run stands, while it runs and after, from any PC that sees the home."""
    batch = commands.load_batch(jobs or configured(c, "jobs"))
    return commands.status(batch, as_json=json, failed=failed)


@task(
    help={
        "jobs": JOBS,
        "to": "the file to write, - for standard output (default: results.csv in the output folder)",
        "format": "csv or json (default: by the file's ending)",
    }
)
@cleanly
def collect(c: Context, jobs: str = "", to: str = "", format: str = "") -> int:
    """Write one table: a row a job, its arguments, how it went, what its output says."""
    batch = commands.load_batch(jobs or configured(c, "jobs"))
    return commands.collect(batch, to, format)
