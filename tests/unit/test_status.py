"""What `status`, `--job`, `--watch` and `logs` show of a run directory that is as a head left it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from pisa_fab import logs, status
from pisa_fab.errors import PisaError, UsageError
from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Ending,
    Event,
    HostLost,
    HostQuarantined,
    HostReady,
    HostUnusable,
    JobGivenUp,
    JobRecord,
    JobsAdded,
    JobsCancelled,
    JobsReopened,
    JobState,
    Outcome,
    RunClosed,
    RunOpened,
    SecondStarted,
)
from pisa_fab.follow import is_at_work
from pisa_fab.journal import Journal
from pisa_fab.layout import Layout
from pisa_fab.lock import moment
from pisa_fab.model import Policy
from pisa_fab.run import read_history
from pisa_fab.watch import Watched, picture, watch
from pisa_fab.why import why

T = 1_800_000_000.0
GOOD = Outcome(Ending.EXITED, exit_code=0, seconds=4.0)
BAD = Outcome(Ending.EXITED, exit_code=3, seconds=4.0, tail="Traceback\nno file\x1b[31m\n")
REFUSED = Outcome(Ending.REFUSED, tail="no room")
READY = HostReady("pc01", 2, "3.11", 4, "m1")
Write = Callable[..., None]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.chdir(tmp_path)
    layout = Layout(tmp_path / "run")
    layout.create()
    return layout


@pytest.fixture
def write(layout: Layout) -> Write:
    """Write a journal: jobs, a run that begins at T, and one event each second after that."""

    def write(*events: Event, jobs: int = 4, policy: Policy | None = None) -> None:
        records = [
            JobRecord(f"{n:016x}", ("s.py", f"{n} x"), {"-n": f"{n} x", "-q": None}) for n in range(jobs)
        ]
        opened = RunOpened("1", "head", 1, range(jobs), policy or Policy(retries=1))
        journal = Journal.open(layout.journal)
        for second, event in enumerate((JobsAdded(0, records), opened, *events)):
            journal.append(T + second, [event])
        journal.close()

    return write


def described(layout: Layout) -> list[str]:
    return list(
        status.describe(read_history(layout.root), layout, head=is_at_work(layout), only_failed=False)
    )


# -- status --------------------------------------------------------------------------------------------------


def test_nothing_was_submitted(layout: Layout) -> None:
    assert described(layout) == ["run: not submitted yet"]
    out = io.StringIO()
    assert watch(layout, out=out) == 1
    assert out.getvalue() == "run: not submitted yet\n"


def test_many_hosts_take_one_line(layout: Layout, write: Write) -> None:
    write(*[HostReady(f"pc{n:02d}", 3) for n in range(1, 35)], HostUnusable("pc40", "no venv"))
    lines = described(layout)
    assert "  34 hosts with 102 slots: pc[01-34]" in lines
    assert "  pc40: unusable: no venv" in lines
    assert all(len(line) <= 80 for line in lines)


def test_a_run_that_ended_says_how(layout: Layout, write: Write) -> None:
    write(READY, RunClosed("no host"))
    assert f"  ended because no usable host was left at {moment(T + 3)}" in described(layout)


def test_jobs_that_are_cancelled_later_do_not_move_the_end_of_the_run(layout: Layout, write: Write) -> None:
    write(READY, RunClosed("interrupted"), CancelAsked((1,), "me"), JobsCancelled((1,)))
    assert f"  interrupted at {moment(T + 3)}" in described(layout)
    assert f"was interrupted at {moment(T + 3)}" in list(status.describe_job(layout, 2))[1]


def test_json_counts_every_state_and_names_the_cancelled(layout: Layout, write: Write) -> None:
    write(READY, CancelAsked((1, 2), "anna"), JobsCancelled((1, 2)), JobGivenUp(3, ("pc09",)))
    data = json.loads(status.as_json(read_history(layout.root), layout, head=is_at_work(layout)))
    assert data["counts"].keys() == {state.value for state in JobState}
    assert data["cancelled"] == ["0001", "0002"]
    assert data["given_up"] == {"0003": ["pc09"]}
    assert (data["waiting"], data["left_out"], data["running"]) == (None, 0, False)
    assert data["hosts"][0]["state"] == "ready"


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([AttemptEnded(0, 1, "pc01", GOOD), RunClosed("finished")], 0),
        ([AttemptEnded(0, 1, "pc01", BAD), RunClosed("finished")], 1),
        ([RunClosed("hopeless")], 1),
        ([RunClosed("interrupted")], 130),
        ([RunClosed("no host")], 3),
        ([], 130),  # its head died
    ],
)
def test_a_run_that_is_over_has_an_exit_code(
    layout: Layout, write: Write, events: Sequence[Event], code: int
) -> None:
    write(READY, AttemptStarted(0, 1, "pc01"), *events, jobs=1, policy=Policy())
    assert status.exit_code(read_history(layout.root)) == code
    out = io.StringIO()
    assert watch(layout, out=out) == code
    assert out.getvalue().splitlines()[-1] == "outputs: run"


# -- one job -------------------------------------------------------------------------------------------------


def test_a_job_is_described_with_all_its_attempts(layout: Layout, write: Write) -> None:
    write(
        READY,
        AttemptStarted(0, 1, "pc01"),
        HostLost("pc01", "silent"),
        HostReady("pc02", 1),
        AttemptStarted(0, 2, "pc02"),
        AttemptEnded(0, 2, "pc02", BAD),
        HostReady("pc01", 1),
        AttemptStarted(0, 3, "pc01"),
        AttemptEnded(0, 1, "pc01", GOOD),
    )
    layout.attempt_files(0, 2)[1].write_text("no file\n")
    lines = list(status.describe_job(layout, 0))
    assert lines == [
        "0000  running",
        f"  it was running on pc01 since {moment(T + 9)}, attempt 3, when its head ended",
        "  its worker ends it within 60 s, unless submit is given again before that and takes it up",
        "  -n '0 x'",
        "  $ s.py '0 x'",
        "attempts:",
        f"  1  {moment(T + 3)} on pc01, 4 s: succeeded; too late, it had been given to another host",
        f"  2  {moment(T + 6)} on pc02, 4 s: exit code 3",
        "       Traceback",
        "       no file\N{REPLACEMENT CHARACTER}[31m",
        f"  3  {moment(T + 9)} on pc01: runs",
        "files:",
        "  run/.pisa/attempts/0000.2.err",
    ]


def test_attempts_that_do_not_count_say_so(layout: Layout, write: Write) -> None:
    write(
        READY,
        AttemptStarted(0, 1, "pc01"),
        AttemptEnded(0, 1, "pc01", BAD),
        HostQuarantined("pc01", "failed 3 jobs in a row", (0,)),
        HostReady("pc02", 1),
        AttemptStarted(0, 2, "pc02"),
        RunOpened("1", "head", 2, range(4), epoch=2),
    )
    lines = list(status.describe_job(layout, 0))
    assert any(line.endswith("exit code 3; does not count, the host was to blame") for line in lines)
    assert any(line.endswith("on pc02: its head was gone") for line in lines)


def test_a_cancelled_job_says_by_whom_and_when(layout: Layout, write: Write) -> None:
    write(READY, CancelAsked((2,), "anna on pc07"), JobsCancelled((2,)))
    lines = list(status.describe_job(layout, 2))
    assert lines[0] == "0002  cancelled"
    assert f"  cancelled by anna on pc07 at {moment(T + 4)}" in lines


def test_what_the_jobs_file_says_is_the_order_of_what_waits(layout: Layout, write: Write) -> None:
    write(READY, AttemptStarted(3, 1, "pc01"))
    history, _ = status.read_job(layout, 0, lambda arguments: 10.0 + int(str(arguments["-n"]).split()[0]))
    why(history, 0, head=True, now=T + 4.0)
    assert [history.scheduler.look(job).before for job in (2, 1, 0)] == [0, 1, 2]


def test_where_a_second_attempt_runs_is_in_the_json(layout: Layout, write: Write) -> None:
    write(READY, HostReady("pc02", 1), AttemptStarted(0, 1, "pc01"), SecondStarted(0, 2, "pc02"))
    data = json.loads(status.as_json(read_history(layout.root), layout, head=False))
    assert data["second"] == {"0000": "pc02"}
    assert [(host["host"], host["running"]) for host in data["hosts"]] == [("pc01", 1), ("pc02", 1)]


def test_a_job_as_json(layout: Layout, write: Write) -> None:
    write(READY, AttemptStarted(1, 1, "pc01"), AttemptEnded(1, 1, "pc01", BAD), policy=Policy())
    data = json.loads(status.job_as_json(layout, 1))
    assert (data["job"], data["state"], data["wanted"]) == ("0001", "failed", True)
    assert data["argv"] == ["s.py", "1 x"]
    assert data["why"][-1] == "to run it again: submit --retry-failed"
    [attempt] = data["attempts"]
    assert (attempt["host"], attempt["how"], attempt["started"]) == ("pc01", "exit code 3", T + 3)
    running = json.loads(status.job_as_json(layout, 0))
    assert (running["attempts"], running["cancelled_by"]) == ([], None)


def test_an_unknown_job_is_a_usage_error(layout: Layout, write: Write) -> None:
    write(READY)
    with pytest.raises(UsageError, match="there is no job 0009: they are 0000 to 0003"):
        list(status.describe_job(layout, 9))
    with pytest.raises(UsageError, match="there is no job 0009"):
        logs.show(layout, 9)


# -- the picture ---------------------------------------------------------------------------------------------


def drawn(layout: Layout, width: int, height: int) -> list[str]:
    watched = Watched(layout)
    watched.look()
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, no_color=True)
    with console.capture() as capture:
        console.print(picture(watched, height))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 16), (120, 60), (40, 10)])
def test_many_hosts_fit(layout: Layout, write: Write, width: int, height: int) -> None:
    bad = [HostUnusable(f"pc{n:02d}", "connect: No route to host, whatever was tried") for n in range(30, 35)]
    write(*[HostReady(f"pc{n:02d}", 3) for n in range(1, 30)], *bad)
    lines = drawn(layout, width, height)
    assert len(lines) < height or height == 10
    table = lines[lines.index(next(line for line in lines if line.startswith("host "))) + 1 :]
    if height == 60:
        assert sum(line.startswith("pc") for line in table) == 34
    else:
        assert table[0].startswith("29 hosts")
    if height == 24:
        assert [line.split()[0] for line in table[1:6]] == [f"pc{n}" for n in range(30, 35)]
    if height == 16:
        assert "87" in table[0].split()


def test_the_rest_of_the_bad_hosts_is_counted(layout: Layout, write: Write) -> None:
    write(READY, *[HostUnusable(f"pc{n:02d}", "off") for n in range(2, 35)])
    table = drawn(layout, 80, 24)
    last = next(line for line in reversed(table) if line)
    assert "not ready" in last
    assert last.split()[-1].endswith("-34]")
    assert sum(line.startswith("pc") for line in table) + int(last.split()[0]) == 34


# -- logs ----------------------------------------------------------------------------------------------------


def shown(layout: Layout, job: int, **options: object) -> tuple[int, str, str]:
    out, err = io.BytesIO(), io.StringIO()
    code = logs.show(layout, job, out=out, err=err, **options)  # type: ignore[arg-type]
    return code, out.getvalue().decode(), err.getvalue()


ONCE = (READY, AttemptStarted(0, 1, "pc01"))
FAILED = (*ONCE, AttemptEnded(0, 1, "pc01", BAD))


def test_a_published_output_is_shown_as_it_is(layout: Layout, write: Write) -> None:
    write(*ONCE, AttemptEnded(0, 1, "pc01", GOOD))
    layout.job_files(0)[0].write_bytes("a\r\n\x1b[1mb\nno newline, é".encode())
    layout.job_files(0)[1].write_text("warned\n")
    assert shown(layout, 0) == (0, "a\r\n\x1b[1mb\nno newline, é", "")
    assert shown(layout, 0, stream="err") == (0, "warned\n", "")
    assert shown(layout, 0, follow=True) == (0, "a\r\n\x1b[1mb\nno newline, é", "")
    assert shown(layout, 0, attempt=1) == (0, "a\r\n\x1b[1mb\nno newline, é", "")


def test_an_output_that_was_not_published_yet_comes_before_an_older_one(layout: Layout, write: Write) -> None:
    write(*ONCE, AttemptEnded(0, 1, "pc01", GOOD), JobsReopened((0,)), AttemptStarted(0, 2, "pc01"))
    layout.job_files(0)[0].write_text("old")
    layout.attempt_files(0, 2)[0].write_text("new so far")
    assert shown(layout, 0) == (0, "new so far", "")


def test_a_job_that_failed_says_how_beside_its_output(layout: Layout, write: Write) -> None:
    write(*FAILED, policy=Policy())
    layout.job_files(0)[0].write_text("half\n")
    code, out, err = shown(layout, 0)
    assert (code, out, err) == (0, "half\n", "0000.1 on pc01: exit code 3\n")
    assert shown(layout, 0, follow=True)[0] == 1


def test_a_job_that_waits_for_another_try_shows_the_last(layout: Layout, write: Write) -> None:
    write(*FAILED)
    layout.attempt_files(0, 1)[0].write_text("half\n")
    code, out, err = shown(layout, 0)
    assert (code, out) == (0, "half\n")
    assert err.splitlines()[0] == "0000.1 on pc01: exit code 3"
    assert err.splitlines()[1].startswith("0000: no head is at work")


def test_a_job_that_has_not_started_says_why(layout: Layout, write: Write) -> None:
    write(READY)
    code, out, err = shown(layout, 3)
    assert (code, out) == (1, "")
    assert err == f"0003: no head is at work: it died after {moment(T + 2)}; submit again to go on\n"


def test_following_ends_when_nobody_goes_on(layout: Layout, write: Write) -> None:
    write(*ONCE, RunClosed("interrupted"))
    layout.attempt_files(0, 1)[0].write_text("so far\n")
    code, out, err = shown(layout, 0, follow=True)
    assert (code, out) == (1, "so far\n")
    assert "when its head ended" in err
    assert shown(layout, 1, follow=True)[0] == 1


def test_a_certain_attempt(layout: Layout, write: Write) -> None:
    again = (AttemptStarted(0, 2, "pc01"), AttemptEnded(0, 2, "pc01", GOOD))
    write(*FAILED, *again)
    layout.attempt_files(0, 1)[0].write_text("first\n")
    layout.job_files(0)[0].write_text("second\n")
    assert shown(layout, 0, attempt=1)[1:] == ("first\n", "0000.1 on pc01: exit code 3\n")
    assert shown(layout, 0, attempt=2) == (0, "second\n", "")
    assert shown(layout, 0)[1] == "second\n"
    with pytest.raises(UsageError, match="0000 has no attempt 3"):
        shown(layout, 0, attempt=3)


def test_the_output_of_an_attempt_that_is_gone(
    layout: Layout, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "VISIBILITY_PATIENCE", 0.0)
    write(*FAILED, AttemptStarted(0, 2, "pc01"), AttemptEnded(0, 2, "pc01", GOOD))
    layout.job_files(0)[0].write_text("second\n")
    with pytest.raises(PisaError, match=r"0000\.1: what it wrote is not there any more"):
        shown(layout, 0, attempt=1)


# -- folders of ten thousand ---------------------------------------------------------------------------------

MANY = 10_001


def test_a_job_beyond_ten_thousand_shows_its_files_by_the_rule(layout: Layout, write: Write) -> None:
    job = MANY - 1
    write(
        READY,
        AttemptStarted(job, 1, "pc01"),
        AttemptEnded(job, 1, "pc01", BAD),
        AttemptStarted(job, 2, "pc01"),
        AttemptEnded(job, 2, "pc01", GOOD),
        jobs=MANY,
    )
    for files, text in ((layout.attempt_files(job, 1), "first\n"), (layout.job_files(job), "second\n")):
        for path in files:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    assert list(status.describe_job(layout, job))[-5:] == [
        "files:",
        "  run/stdout/10000/10000.out",
        "  run/stderr/10000/10000.err",
        "  run/.pisa/attempts/10000/10000.1.out",
        "  run/.pisa/attempts/10000/10000.1.err",
    ]
    assert shown(layout, job) == (0, "second\n", "")
    assert shown(layout, job, stream="err", attempt=1)[1] == "first\n"


def test_what_an_older_version_left_flat_is_shown(layout: Layout, write: Write) -> None:
    job = MANY - 1
    started, ended = AttemptStarted(job, 1, "pc01"), AttemptEnded(job, 1, "pc01", GOOD)
    write(READY, started, ended, jobs=MANY)
    new, old = layout.job_places(job)
    old[0].write_text("of 0.3\n")
    assert list(status.describe_job(layout, job))[-2:] == ["files:", "  run/stdout/10000.out"]
    assert shown(layout, job) == (0, "of 0.3\n", "")
    assert shown(layout, job, follow=True) == (0, "of 0.3\n", "")
    new[0].parent.mkdir()
    new[0].write_text("newer\n")
    assert list(status.describe_job(layout, job))[-2:] == ["files:", "  run/stdout/10000/10000.out"]
    assert shown(layout, job) == (0, "newer\n", "")


def test_the_flat_file_of_an_attempt_that_an_older_version_runs_is_shown(
    layout: Layout, write: Write
) -> None:
    job = MANY - 1
    write(READY, AttemptStarted(job, 1, "pc01"), jobs=MANY)
    list(layout.attempt_places(job, 1))[1][0].write_text("so far\n")
    assert shown(layout, job)[:2] == (0, "so far\n")
