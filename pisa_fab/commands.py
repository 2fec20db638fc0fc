"""What each command does, from objects of the API to an exit code. No Invoke here: options come from `tasks`.

Imports are made where they are needed: `dryrun` starts without Fabric, `--help` without anything.
"""

from __future__ import annotations

import gc
import getpass
import socket
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pisa_fab.errors import EXIT_FAILED, EXIT_OK, UsageError
from pisa_fab.invocation import as_typed, short, works_on

if TYPE_CHECKING:
    from pisa_fab.api import Batch, Pool
    from pisa_fab.diagnosis import HostReport
    from pisa_fab.launch import Ended
    from pisa_fab.pool import Access

DEFAULT_JOBS = "jobs.yaml"
DEFAULT_CLUSTER = "cluster.yaml"
LINES_AT_ONCE = 1000  # that are written together, as the output may have no buffer of its own
GARBAGE = 20_000  # objects more than before, after which garbage is looked for


def load_batch(jobs: str) -> Batch:
    """Read the jobs file, or the one here. Raises SpecError or UsageError."""
    from pisa_fab.api import Batch

    if not jobs and not Path(DEFAULT_JOBS).exists():
        raise UsageError(
            f"no jobs file was named and there is no {DEFAULT_JOBS} here",
            f"name one: --jobs FILE; or make one: {as_typed('init')}",
        )
    return noted(Batch.load(jobs or DEFAULT_JOBS))


def noted(batch: Batch) -> Batch:
    """Give a batch, after noting for tips where its jobs file is, or will be."""
    works_on("" if batch.spec.source == Path.cwd() / DEFAULT_JOBS else short(batch.spec.source))
    return batch


def ad_hoc_or_file(jobs: str, load: Callable[[], Batch], *, sweep: Sequence[str], **options: str) -> Batch:
    """Give the batch of the options if they say what to run, else of a file. Raises PisaError."""
    from pisa_fab.api import Batch

    cluster = options.pop("cluster")
    if options["script"] or options["command"]:
        if jobs:
            raise UsageError("--jobs and --script cannot both be given", "the jobs file says what to run")
        return noted(Batch.from_options(sweep=sweep, cluster=cluster, **options))
    given = [name for name, value in {"sweep": sweep, **options}.items() if value]
    if given:
        raise UsageError(
            f"--{given[0]} needs --script or --command", f"or put {given[0]}: into the jobs file"
        )
    return load()


def find_cluster(batch: Batch | None, named: str, configured: str) -> Path | None:
    """Give the cluster file: the one that was named, that of the jobs file, the one beside that file, the one
    that is configured; None where there is none: this machine does the work.
    """
    folder = batch.spec.source.parent if batch else Path.cwd()
    if named:
        return Path(named)
    if batch is not None and batch.spec.cluster is not None:
        return batch.spec.cluster
    if (folder / DEFAULT_CLUSTER).exists():
        return folder / DEFAULT_CLUSTER
    return Path(configured).expanduser() if configured else None


def load_pool(
    cluster: Path | None,
    *,
    config: object = None,
    connections: Sequence[Any] = (),
    slots: int = 0,
    owner: str = "",
) -> Pool:
    """Give the pool: of these connections, else of the cluster file, else this machine. Raises PisaError.

    `config` is the context's configuration; `slots`, if not 0, wins over what the cluster file says; `owner`
    is for connections that it does not know.
    """
    from pisa_fab.api import Pool

    loaded = Pool.load(cluster, config=config) if cluster else None
    if connections:
        settings = loaded.cluster if loaded else None
        pool = Pool.over(connections, settings=settings, owner=owner or "pause")
    else:
        pool = loaded or Pool.this_machine()
    return pool.with_slots(slots) if slots else pool


def ask_on_terminal() -> Callable[[str], str] | None:
    """Give what asks a person for a secret; None where there is nobody."""
    return ask_secret if sys.stdin.isatty() else None


def ask_secret(question: str) -> str:
    """Ask on the terminal without showing the answer; give "" for none (Ctrl-D)."""
    try:
        return getpass.getpass(question)
    except EOFError:
        tell_aside("")  # what is said next begins on a line of its own
        return ""
    except KeyboardInterrupt:
        tell_aside("")
        raise


def look_for_garbage() -> None:
    """Look for garbage from now on, where that was put off: all is imported, and this may take long."""
    gc.freeze()  # what is there now stays
    gc.set_threshold(GARBAGE)  # a head makes much that lives for a moment, and few cycles
    gc.enable()


# -- submit -------------------------------------------------------------------------------------------------


def submit(
    batch: Batch,
    pool: Pool,
    *,
    log: bool = False,
    only: str = "",
    retry_failed: bool = False,
    rerun: bool = False,
    detach: bool = False,
    notify: str = "",
) -> int:
    """Run what is not finished yet, and give the exit code. Raises PisaError.

    `only` names jobs (`3,7-9`); `notify` is the command that is run at the end where the jobs file has none.
    """
    pool.ask_ahead()
    from pisa_fab import launch  # noqa: F401 - takes a moment, in which ssh answers
    from pisa_fab.progress import view

    chosen = batch.known()[1].chosen(only) if only else None
    # Whoever is to be asked for a passphrase is so before the terminal is given up.
    access = pool.access(ask_on_terminal()) if pool.is_remote else None

    def work(told: Callable[[], None]) -> int:
        def at_work() -> None:
            look_for_garbage()
            told()

        ended = pool.launch(
            batch,
            view(log=log),
            access=access,
            only=chosen,
            retry_failed=retry_failed,
            rerun=rerun,
            at_work=at_work,
        )
        return finish(batch, ended, notify)

    if not detach:
        return work(lambda: None)
    from pisa_fab.background import in_background

    code, printed = in_background(work, batch.layout.head_log)
    if code is not None:
        print(printed, end="")
        return code
    say_where_it_runs(batch)
    return EXIT_OK


def say_where_it_runs(batch: Batch) -> None:
    """Say what can be done with a run in the background."""
    print(f"{batch.output.name}: runs in the background on {socket.gethostname()}, from any PC of the pool:")
    print(f"  watch it: {as_typed('status', '--watch')}")
    print(f"  stop it:  {as_typed('cancel')}")
    print(f"  what it says is in {short(batch.layout.head_log)}")


def finish(batch: Batch, ended: Ended, notify: str) -> int:
    """Say how a run ended, tell whoever wanted to be told, and give the exit code. Raises PoolError."""
    from pisa_fab.launch import summary
    from pisa_fab.progress import PlainView

    lines = list(summary(batch.spec, ended))
    for line in lines:
        PlainView().say(line)  # when nobody can read it, somebody may be told all the same
    command = batch.spec.notify or notify_words(notify)
    if command and ended.jobs:
        from pisa_fab.notify import notify as tell

        values = {"summary": lines[0], "output": str(batch.output), "state": ended.state}
        if problem := tell(command, values, "\n".join(lines) + "\n"):
            tell_aside(problem)
    ended.raise_if_alone()
    return ended.exit_code


def notify_words(text: str) -> tuple[str, ...]:
    """Split the configured command into words, as a shell would. Raises UsageError."""
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"pisa.notify of Invoke's configuration: {error}") from error


# -- looking ------------------------------------------------------------------------------------------------


def dryrun(batch: Batch, *, as_json: bool = False) -> int:
    """Show every job with its command line and write the assignment file. Raises PisaError."""
    from pisa_fab.assignments import command_lines, write_assignments

    records, numbering = batch.known()
    write_assignments(batch.spec, numbering, records)
    lines = command_lines(numbering.jobs(batch.spec.plan), as_json=as_json)
    while piece := "".join(islice(lines, LINES_AT_ONCE)):
        sys.stdout.write(piece)
    if not as_json:
        written = short(batch.spec.assignments)
        print(f"{len(numbering.numbers)} jobs, nothing was run; written: {written}")
    return EXIT_OK


def status(batch: Batch, *, job: str = "", as_json: bool = False, failed: bool = False) -> int:
    """Show where the run stands, or what is known of one job. Raises PisaError."""
    from pisa_fab import status as words
    from pisa_fab.follow import is_at_work
    from pisa_fab.progress import harmless_lines
    from pisa_fab.run import read_history

    layout = batch.layout
    given = batch.spec.expect.seconds if batch.spec.expect is not None else None
    if job:
        number, _ = job_and_attempt(job)
        known = (layout, number, given)
        lines = [words.job_as_json(*known)] if as_json else words.describe_job(*known)
    else:
        head = is_at_work(layout)
        history = read_history(batch.output)
        history.forecast.given = given
        lines = (
            [words.as_json(history, layout, head=head)]
            if as_json
            else words.describe(history, layout, head=head, only_failed=failed)
        )
    for line in lines:
        print(harmless_lines(line))
    return EXIT_OK


def hosts(pool: Pool, batch: Batch | None, *, as_json: bool = False) -> int:
    """Show what each host may run now, why, and when that changes. Raises PisaError."""
    import shutil
    import time

    from pisa_fab import hosts as words
    from pisa_fab.follow import is_at_work
    from pisa_fab.progress import harmless_lines
    from pisa_fab.run import read_history

    history = read_history(batch.output) if batch is not None and is_at_work(batch.layout) else None
    if as_json:
        print(words.as_json(pool.cluster, history, time.time()))
    else:
        width = shutil.get_terminal_size().columns
        for line in words.describe(pool.cluster, history, time.time(), width):
            print(harmless_lines(line))
    return EXIT_OK


def here(*, stop: bool, start: bool) -> int:
    """Show whose jobs run on this PC, or order that the user's do not. Raises PisaError."""
    from pisa_fab import here as words

    if stop or start:
        print(words.stop() if stop else words.start())
        return EXIT_OK
    for line in words.describe():
        print(line)
    return EXIT_OK


def watch(batch: Batch) -> int:
    """Show where the run stands until it has ended. Raises PisaError."""
    from pisa_fab.watch import watch as show

    look_for_garbage()
    return show(batch.layout)


def logs(batch: Batch, job: str, *, follow: bool = False, stderr: bool = False) -> int:
    """Show what a job prints. Raises PisaError."""
    from pisa_fab.logs import show

    look_for_garbage()
    number, attempt = job_and_attempt(job)
    return show(batch.layout, number, attempt=attempt, follow=follow, stream="err" if stderr else "out")


def job_and_attempt(text: str) -> tuple[int, int | None]:
    """Read `7`, `0007` or `0007.2`. Raises UsageError."""
    job, dot, attempt = text.partition(".")
    if not job.isdecimal() or (dot and not attempt.isdecimal()):
        raise UsageError(f"{text!r} is no number of a job", "write 7, or 7.2 for its second attempt")
    return int(job), int(attempt) if dot else None


def collect(batch: Batch, to: str, kind: str) -> int:
    """Write the table, list what is missing in it, and give the exit code. Raises PisaError."""
    from pisa_fab import results

    kind = results.format_of(to, kind)
    history, numbering = batch.look()
    if history.opened is None:
        raise UsageError(f"{short(batch.output)}: nothing was submitted yet", f"first: {as_typed('submit')}")
    table = results.collect(batch.spec, history, numbering)
    if to == "-":
        results.write(table, sys.stdout, kind)
    else:
        target = Path(to) if to else batch.layout.results(kind)
        results.save(table, target, kind)
        print(f"{len(table.rows)} rows written: {short(target.absolute())}")
    for title, jobs in (("no result", table.missing), ("output not understood", table.unparsed)):
        if jobs:
            tell_aside(f"{title} of {len(jobs)} of {len(numbering.numbers)} jobs:")
            for line in results.lines_of(jobs):
                tell_aside(line)
    return EXIT_OK if table.complete else EXIT_FAILED


# -- cancel -------------------------------------------------------------------------------------------------


def cancel(batch: Batch, only: str = "") -> int:
    """End the run, or let some of its jobs be run no more. Raises PisaError."""
    from pisa_fab import cancel as cancelling

    history, numbering = batch.look()
    if history.opened is None:
        raise UsageError(f"{batch.output.name}: nothing was submitted yet")
    if not only:
        cancelling.cancel_run(batch.layout)
        return EXIT_OK
    jobs = numbering.chosen(only)
    cancelling.cancel_jobs(batch.spec, history, jobs)
    return EXIT_OK


# -- the pool and the first files ---------------------------------------------------------------------------


def check(
    pool: Pool,
    batch: Batch | None,
    *,
    accept_new: bool = False,
    install_key: bool = False,
    as_json: bool = False,
) -> int:
    """Look at every host, show what was found, and give the exit code. Raises PisaError."""
    from pisa_fab import check as looking
    from pisa_fab import check_table

    look_for_garbage()
    spec = batch.spec if batch else None
    access = pool.access(ask_on_terminal(), accept_new=accept_new) if pool.is_remote else None
    reports = looking.run(pool.cluster, access, spec, told=tell_aside)
    if install_key and access is not None and put_key(pool, access, reports, accept_new=accept_new):
        reports = looking.run(pool.cluster, access, spec, told=tell_aside)
    check_table.show(reports, as_json=as_json)
    return check_table.exit_code(reports)


def put_key(pool: Pool, access: Access, reports: Sequence[HostReport], *, accept_new: bool) -> bool:
    """Put the user's public key on the hosts that refuse it; say whether that was done. Raises PisaError."""
    from pisa_fab.authorize import default_public_key, install_key
    from pisa_fab.diagnosis import KEY_REFUSED, NO_KEY
    from pisa_fab.names import listed

    if not any(report.verdict == KEY_REFUSED for report in reports):
        # Where there is no key, the table says how to make one.
        if any(report.verdict != NO_KEY for report in reports):
            tell_aside("no host refuses your key; none was put anywhere")
        return False
    public_key = default_public_key(access.identities(pool.cluster.hosts))
    ask = ask_on_terminal()
    if ask is None:
        raise UsageError(
            "--install-key asks for a password, which takes a terminal", "by hand it is: ssh-copy-id HOST"
        )
    password = ask("password for the hosts that refuse your key: ")
    if not password:
        tell_aside("no password; no key was put anywhere")
        return False
    with_password = pool.access(accept_new=accept_new, password=password)
    installed = install_key(pool.cluster, with_password, public_key, reports, told=tell_aside)
    if installed:
        tell_aside(f"your key was put into ~/.ssh/authorized_keys on {listed(installed)}")
    return bool(installed)


def tell_aside(text: str) -> None:
    """Tell a person something that is not part of the output."""
    from pisa_fab.progress import harmless_lines

    print(harmless_lines(text), file=sys.stderr, flush=True)


def init(*, script: str, hosts: str, slots: str, venv: str, output: str) -> int:
    """Write the first files for a script in the current folder. Raises PisaError."""
    from pisa_fab.first_files import init as write

    def ask(question: str, default: str) -> str:
        try:
            return input(f"{question} [{default}] " if default else f"{question} ").strip() or default
        except EOFError:
            print()  # what is said next begins on a line of its own
            return default
        except KeyboardInterrupt:
            print()
            raise

    asks = ask if sys.stdin.isatty() and sys.stdout.isatty() else None
    write(Path.cwd(), script=script, hosts=hosts, slots=slots, venv=venv, output=output, ask=asks, told=print)
    return EXIT_OK
