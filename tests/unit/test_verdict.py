"""The judge of the soak finds what is wrong, and only that."""

from __future__ import annotations

from pathlib import Path

import verdict
from verdict import Attempt, Timeline, judge

from pisa_fab.messages import lease_grace
from pisa_fab.worker import LONGEST_WAIT

LEASE = 4.0
LIMIT = LEASE + lease_grace(LEASE) + verdict.SLACK


def attempt(number: int, begin: float, end: float, host: str = "pc01", code: int | None = None) -> Attempt:
    """Give an attempt of job 1 that said something every tenth of a second."""
    ticks = round((end - begin) / 0.1)
    return Attempt(1, number, host, tuple(begin + 0.1 * tick for tick in range(ticks + 1)), code)


def test_attempts_one_after_the_other_are_fine() -> None:
    found = judge([attempt(1, 0, 2), attempt(2, 2.2, 4, "pc02", code=0)], Timeline(), LEASE)
    assert (found.wrong, found.attempts, found.ended_twice) == ([], 2, 0)


def test_attempts_at_the_same_time_are_found() -> None:
    found = judge([attempt(1, 0, 2), attempt(2, 1.5, 4, "pc02")], Timeline(), LEASE)
    assert found.wrong == ["1.1 on pc01 and 1.2 on pc02 both ran from 1.500 to 2.000"]
    assert found.overlaps_after_thaw == []


def test_two_attempts_may_run_at_the_same_time_where_second_ones_are_allowed_but_no_three() -> None:
    first, second = attempt(1, 0, 3), attempt(2, 1, 4, "pc02", code=0)
    found = judge([first, second], Timeline(), LEASE, at_once=2)
    assert (found.wrong, found.doubled) == ([], 1)
    found = judge([first, second, attempt(3, 2.5, 5, "pc03")], Timeline(), LEASE, at_once=2)
    assert found.wrong == ["1.1 on pc01 and 1.2 on pc02 and 1.3 on pc03 all ran from 2.500 to 3.000"]
    found = judge([first, second, attempt(3, 4.5, 5, "pc03")], Timeline(), LEASE, at_once=2)
    assert (found.wrong, found.doubled) == ([], 1)
    found = judge([first, attempt(2, 2, 4)], Timeline(), LEASE, at_once=2)
    assert found.wrong == ["1.1 on pc01 and 1.2 on pc01 both ran from 2.000 to 3.000"]


def test_other_jobs_may_run_at_the_same_time() -> None:
    other = Attempt(2, 1, "pc02", (0.0, 1.0))
    assert judge([attempt(1, 0, 2), other], Timeline(), LEASE).wrong == []


def test_a_frozen_attempt_does_not_run_and_may_need_a_moment_to_see_its_clock() -> None:
    timeline = Timeline()
    timeline.frozen["pc01"].append((1.05, 20.0))
    before = tuple(0.1 * tick for tick in range(11))
    frozen = Attempt(1, 1, "pc01", (*before, 20.1, 20.4))
    second = attempt(2, 10, 20.3, "pc02", code=0)
    found = judge([frozen, second], timeline, LEASE)
    assert found.wrong == []
    assert len(found.overlaps_after_thaw) == 1
    late = Attempt(1, 1, "pc01", (*before, 20.0 + LONGEST_WAIT + verdict.SLACK + 0.5))
    found = judge([late, attempt(2, 10, 30, "pc02")], timeline, LEASE)
    assert len(found.wrong) == 1


def test_an_attempt_that_was_not_frozen_is_not_excused_by_another_freeze() -> None:
    timeline = Timeline()
    timeline.frozen["pc02"].append((0.2, 1.0))
    timeline.frozen["pc01"].append((0.2, 1.0))  # before the attempt began there
    found = judge([attempt(1, 1.1, 2), attempt(2, 1.5, 4, "pc02")], timeline, LEASE)
    assert len(found.wrong) == 1


def test_an_attempt_number_is_used_once() -> None:
    found = judge([attempt(1, 0, 1), attempt(1, 2, 3, "pc02")], Timeline(), LEASE)
    assert found.wrong == ["attempt 1.1 on pc01 was run twice, also on pc02"]


def test_an_attempt_must_end_when_no_head_reaches_it() -> None:
    for timeline in (Timeline(headless=[(1.0, 60.0)]), Timeline(headless=[(1.0, 3.0), (2.5, 60.0)])):
        assert judge([attempt(1, 0, 1.0 + LIMIT - 0.2)], timeline, LEASE).wrong == []
        (wrong,) = judge([attempt(1, 0, 1.0 + LIMIT + 0.5)], timeline, LEASE).wrong
        assert "1.1 on pc01 still ran" in wrong


def test_being_cut_off_counts_with_having_no_head_but_only_there() -> None:
    timeline = Timeline(headless=[(4.0, 60.0)])
    timeline.unreachable["pc01"].append((1.0, 5.0))
    long = (0.0, 1.0 + LIMIT + 0.5)
    assert len(judge([attempt(1, *long)], timeline, LEASE).wrong) == 1
    assert judge([attempt(1, *long, "pc02")], timeline, LEASE).wrong == []


def test_a_log_is_read_as_far_as_it_is_whole() -> None:
    text = "begin 1.0000 0007 2 pc03 411\ntick 1.1000\ndaemon 1.2000\nend 1.3000 0\ndaemon 1.4"
    assert verdict.parse_log(text) == Attempt(7, 2, "pc03", (1.0, 1.1, 1.2, 1.3), 0)
    assert verdict.parse_log("begin 1.0") is None


def test_an_output_is_whole_and_of_one_attempt() -> None:
    good = "7.2 0 ...\n7.2 1 ...\n7.2 2 end\n"
    assert verdict.output_problem(good, 7, 2) == ""
    assert "not of attempt 3" in verdict.output_problem(good, 7, 3)
    assert "before the end" in verdict.output_problem(good[:20], 7, 2)
    assert "is another" in verdict.output_problem("7.2 0 ...\n7.2 2 end\n", 7, 2)
    assert "before the end" in verdict.output_problem("", 7, 2)


def test_the_user_view_is_complete(tmp_path: Path) -> None:
    for folder in ("stdout", "stderr"):
        (tmp_path / folder).mkdir()
    (tmp_path / "stdout" / "0001.out").write_text("1.2 0 end\n")
    (tmp_path / "stderr" / "0001.err").write_text("")
    row = {"job": "0001", "-n": "0", "state": "succeeded", "attempt": "2", "host": "pc02"}
    ended = [attempt(1, 0, 1), attempt(2, 2, 3, "pc02", code=0)]

    def problems(rows: list[dict[str, str]], attempts: list[Attempt] = ended, jobs: int = 1) -> list[str]:
        return list(verdict.judge_user_view(tmp_path, jobs, rows, attempts))

    assert problems([row]) == []
    assert problems([row | {"state": "failed"}]) == ["job 0001: failed"]
    assert "no log" in problems([row | {"host": "pc01"}])[0]
    assert "not of attempt 1" in problems([row | {"attempt": "1", "host": "pc01"}], ended)[1]
    assert "the table has 0 rows" in problems([])[0]
    assert "did not end with 0" in problems([row], [attempt(2, 2, 3, "pc02")])[0]
    (tmp_path / "stderr" / "0001.err").write_text("Traceback\n")
    (tmp_path / "stdout" / "0002.out").write_text("")
    assert problems([row]) == ["job 0001: 0001.err: Traceback\n", "stdout has 2 files of 1 jobs"]
