"""What a person is told: of hosts that are in trouble once, and of failures that are alike once."""

from __future__ import annotations

import pytest

from pisa_fab.events import (
    AttemptEnded,
    AttemptStarted,
    Ending,
    Event,
    HostProbed,
    HostQuarantined,
    HostReady,
    HostUnusable,
    JobRecord,
    JobsAdded,
    Outcome,
    RunClosed,
    RunOpened,
)
from pisa_fab.history import History
from pisa_fab.model import Policy
from pisa_fab.progress import PlainView, failures, hopeless, problems

GOOD = Outcome(Ending.EXITED, exit_code=0, seconds=1.0)
REFUSED = Outcome(Ending.REFUSED, tail="cannot start sh: no room")


def test_what_a_host_says_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView().happened(HostUnusable("pc01", "the worker did not start (\x1b]0;title\x07\x9b2J)"))
    PlainView().say("two\nlines")
    assert capsys.readouterr().out == (
        "pc01: cannot be used: the worker did not start (\ufffd]0;title\ufffd\ufffd2J)\ntwo\nlines\n"
    )


def said_of(capsys: pytest.CaptureFixture[str], *events: Event, log: bool = False) -> list[str]:
    view = PlainView(log=log)
    for event in events:
        view.happened(event)
    return capsys.readouterr().out.splitlines()


def failed(number: int, tail: str = "", code: int = 1) -> Outcome:
    return Outcome(Ending.EXITED, exit_code=code, seconds=1.0, tail=tail or f"Traceback\nno file '{number}'")


def stopped_early(*outcomes: Outcome, before: tuple[Outcome, ...] = ()) -> History:
    """Give a run of some jobs, each of which ended once; `before` are those of an earlier run."""
    outcomes = (*before, *outcomes)
    history = History()
    records = tuple(JobRecord(str(n), ("s.py", str(n)), {"-n": str(n)}) for n in range(len(outcomes)))
    history.apply(1.0, JobsAdded(0, records))

    def open_run(time: float) -> None:
        history.apply(time, RunOpened("1", "head", 1, range(len(outcomes)), Policy(stop_after=2)))
        for host in ("pc01", "pc02"):
            history.apply(time, HostReady(host, 1, "3.11", 4))

    open_run(2.0)
    for job, outcome in enumerate(outcomes):
        if job == len(before) > 0:
            open_run(100.0)
        time, host = history.last_at + 1, f"pc0{1 + job % 2}"
        history.apply(time, AttemptStarted(job, 1, host))
        history.apply(time, AttemptEnded(job, 1, host, outcome))
    history.apply(history.last_at, RunClosed("hopeless"))
    return history


def test_of_a_traceback_the_lines_are_shown_that_say_something() -> None:
    tail = 'Traceback\n  File "fib.py", line 5\n    for _ in range(n):\n      ^^^^^^\nTypeError: no'
    history = stopped_early(failed(0, tail))
    assert list(failures(history))[2:] == [
        '          File "fib.py", line 5',
        "            for _ in range(n):",
        "        TypeError: no",
    ]


def test_a_job_without_arguments_has_no_line_for_them() -> None:
    history = History()
    history.apply(1.0, JobsAdded(0, (JobRecord("k", ("s.py",), {}),)))
    history.apply(2.0, RunOpened("1", "head", 1, range(1), Policy()))
    history.apply(3.0, AttemptStarted(0, 1, "pc01"))
    history.apply(4.0, AttemptEnded(0, 1, "pc01", failed(0, "no")))
    assert list(failures(history)) == ["  0000  exit code 1 on pc01, attempt 1", "        no"]


# -- hosts --------------------------------------------------------------------------------------------------


def test_that_a_host_can_start_nothing_is_said_once_until_it_can_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended(host: str, outcome: Outcome) -> Event:
        return AttemptEnded(1, 1, host, outcome)

    lines = said_of(
        capsys,
        ended("pc01", REFUSED),
        ended("pc01", REFUSED),
        ended("pc02", REFUSED),
        ended("pc01", GOOD),
        ended("pc01", REFUSED),
    )
    assert [line.partition(":")[0] for line in lines] == ["pc01", "pc02", "pc01"]
    text = "pc01: can start nothing at the moment: cannot start sh: no room; it is tried again"
    assert lines[0] == lines[2] == text


def test_that_a_host_is_out_is_said_again_only_when_a_probe_has_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, straggler = HostQuarantined("pc01", "failed", (1, 2)), HostQuarantined("pc01", "failed, too", (3,))
    probe = HostQuarantined("pc01", "failed its probe", (4,))
    lines = said_of(capsys, first, straggler, HostProbed("pc01"), probe)
    assert lines == [
        "pc01: gets no jobs for a while: failed; 2 jobs run again elsewhere",
        "pc01: gets no jobs for a while: failed its probe; 1 job run again elsewhere",
    ]


# -- failures -----------------------------------------------------------------------------------------------


def test_failures_that_are_alike_are_shown_once() -> None:
    history = stopped_early(*(failed(number) for number in range(12)))
    lines = list(problems(history))
    assert lines == list(hopeless(history))
    assert lines[:6] == [
        "stopped early: 12 jobs failed in the same way, so no more were started",
        "  0000, 0001, 0002, 0003, 0004, 0005, 0006, 0007 and 4 more: exit code 1",
        "  on pc01, pc02",
        "  the last that 0000 wrote to its standard error:",
        "    Traceback",
        "    no file '0'",
    ]
    assert "submit --retry-failed" in lines[6]
    assert "stop_after: 0" in lines[7]
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80


def test_what_failed_in_another_way_meanwhile_is_counted() -> None:
    lines = list(hopeless(stopped_early(failed(0), failed(1), failed(2, "killed by a friend", code=3))))
    assert lines[0].startswith("stopped early: 2 jobs ")
    assert "  1 other job failed, too; see all with: pisa-fab status --failed" in lines
    assert not any("friend" in line for line in lines)


def test_failures_of_earlier_runs_are_not_why_this_one_was_stopped() -> None:
    earlier = tuple(failed(number, "of old") for number in range(5))
    lines = list(hopeless(stopped_early(failed(5), failed(6), before=earlier)))
    assert lines[1] == "  0005, 0006: exit code 1"
    assert "  5 other jobs failed, too; see all with: pisa-fab status --failed" in lines
    assert not any("of old" in line for line in lines)


def test_without_a_failure_that_is_known_nothing_is_said() -> None:
    assert list(problems(stopped_early(GOOD))) == []
