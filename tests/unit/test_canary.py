"""The canary: first jobs that all fail alike are noticed, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.canary import LONGEST_LINE, Canary, CommonFailure, signature
from pisa_fab.events import AttemptEnded, Ending, Outcome

GOOD = Outcome(Ending.EXITED, exit_code=0)
TRACEBACK = 'Traceback (most recent call last):\n  File "fib.py", line 7, in <module>\nKeyError: {}\n'
BAD = Outcome(Ending.EXITED, exit_code=1, tail=TRACEBACK.format("'a17'"))
STOPPED = Outcome(Ending.STOPPED, signal=15)
REFUSED = Outcome(Ending.REFUSED, tail="cannot start")


def canary_after(*ends: tuple[int, str, Outcome], stop_after: int = 3) -> Canary:
    canary = Canary(stop_after)
    for job, host, outcome in ends:
        canary.ended(AttemptEnded(job, 1, host, outcome))
    return canary


def failed_with(line: str) -> Outcome:
    return replace(BAD, tail=line)


# -- the verdict -------------------------------------------------------------------------------------


def test_the_first_jobs_that_fail_alike_on_two_hosts_are_noticed() -> None:
    again = replace(BAD, tail=TRACEBACK.format("'b3'"), seconds=7.0)
    canary = canary_after((4, "a", BAD), (0, "b", again))
    assert canary.verdict(3) is None
    canary.ended(AttemptEnded(2, 1, "a", again))
    assert canary.verdict(3) == CommonFailure((4, 0, 2), ("a", "b"), BAD)
    assert canary.verdict(3) is not None  # as often as it is asked


def test_zero_is_never() -> None:
    canary = canary_after(*((job, host, BAD) for job in range(20) for host in "ab"), stop_after=0)
    assert canary.verdict(2) is None
    assert not canary.armed


def test_the_attempts_of_one_job_count_once() -> None:
    canary = canary_after(*((0, host, BAD) for host in "abcdef"))
    assert canary.verdict(6) is None


@pytest.mark.parametrize(("ready", "expected"), [(0, True), (1, True), (2, False), (9, False)])
def test_one_host_is_enough_only_where_there_is_no_other(ready: int, expected: bool) -> None:
    canary = canary_after((0, "a", BAD), (1, "a", BAD), (2, "a", BAD))
    assert (canary.verdict(ready) is not None) is expected


def test_the_second_host_may_come_late() -> None:
    canary = canary_after(*((job, "a", BAD) for job in range(5)))
    assert canary.verdict(2) is None
    canary.ended(AttemptEnded(5, 1, "b", BAD))
    assert canary.verdict(2) == CommonFailure(tuple(range(6)), ("a", "b"), BAD)


@pytest.mark.parametrize("place", range(4))
def test_one_success_disarms_it_for_good(place: int) -> None:
    ends = [(job, "ab"[job % 2], BAD) for job in range(3)]
    ends.insert(place, (9, "c", GOOD))
    canary = canary_after(*ends)
    assert not canary.armed
    for job in range(10, 20):
        canary.ended(AttemptEnded(job, 1, "ab"[job % 2], BAD))
    assert canary.verdict(2) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(BAD, exit_code=2),
        Outcome(Ending.SIGNALLED, signal=9, tail=BAD.tail),
        Outcome(Ending.TIMEOUT, tail=BAD.tail),
        Outcome(Ending.NOT_STARTED, tail=BAD.tail),
        failed_with("ValueError: 'a17'"),
        failed_with(""),
    ],
)
def test_two_ways_of_failing_disarm_it(other: Outcome) -> None:
    canary = canary_after((0, "a", BAD), (1, "b", other), (2, "a", BAD), (3, "b", BAD), (4, "a", BAD))
    assert not canary.armed
    assert canary.verdict(2) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Ending.EXITED, exit_code=1),
        Outcome(Ending.SIGNALLED, signal=9),
        Outcome(Ending.TIMEOUT, seconds=20.0),
        Outcome(Ending.NOT_STARTED, tail="cannot start ./simulate: no such file"),
    ],
)
def test_every_way_of_failing_may_be_common(outcome: Outcome) -> None:
    found = canary_after(*((job, "ab"[job % 2], outcome) for job in range(3))).verdict(2)
    assert found is not None
    assert found.outcome is outcome


@pytest.mark.parametrize("outcome", [STOPPED, REFUSED])
def test_what_the_jobs_are_not_to_blame_for_does_not_count(outcome: Outcome) -> None:
    canary = canary_after(*((job, "ab"[job % 2], outcome) for job in range(9)))
    assert canary.armed
    assert canary.verdict(2) is None
    for job in range(3):
        canary.ended(AttemptEnded(job, 2, "ab"[job % 2], BAD))
        canary.ended(AttemptEnded(job, 3, "c", outcome))
    assert canary.verdict(2) == CommonFailure((0, 1, 2), ("a", "b"), BAD)


def test_it_is_said_in_one_line() -> None:
    found = CommonFailure((0, 1, 2, 3, 4), ("a", "b", "c"), BAD)
    assert found.describe() == "the first 5 jobs all failed in the same way, on 3 hosts: exit code 1"
    found = CommonFailure((0, 1), ("a",), Outcome(Ending.SIGNALLED, signal=9))
    assert found.describe() == "the first 2 jobs all failed in the same way, on 1 host: signal 9 (SIGKILL)"
    assert CommonFailure((0,), ("a",), BAD).describe() == "the first job failed, on 1 host: exit code 1"


# -- the signature -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KeyError: 'a17'", "KeyError: 'b3'"),
        ("KeyError: 'a17'", 'KeyError: "it\'s"'),
        ("KeyError: 'a17'", "KeyError: b'x'"),
        ("KeyError: 'a17'", "KeyError: 'a17'   \n\n  \n"),
        ("ValueError: -n must be positive, not 3", "ValueError: -n must be positive, not -7"),
        ("bad value 0.5", "bad value 1e-12"),
        ("shape (3,4)", "shape (12, 5)".replace(", ", ",")),
        ("<X object at 0x7f12ab>", "<X object at 0x55deadbeef>"),
        ("checksum 5d41402abc4b2a76", "checksum ffc1b2a3d4e5f607"),
        ("cannot open /home/a/data/run-3.csv: no", "cannot open ../b.csv: no"),
        ("cannot open ~/x, sorry", "cannot open data/2/x, sorry"),
        ("can't open 'one two'", "can't open 'three'"),
        ("cannot stat `one': no", "cannot stat `two': no"),
        ("cannot stat \u2018one\u2019: no", "cannot stat \u2018/tmp/two\u2019: no"),
        ("line 12: killed", "line 3: killed"),
    ],
)
def test_what_differs_by_value_alone_is_the_same(one: str, other: str) -> None:
    assert signature(failed_with(one)) == signature(failed_with("something before\n" + other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KeyError: 'a17'", "IndexError: 'a17'"),
        ("can't open 'one'", "can't close 'one'"),
        ("ValueError: -n must be positive, not 3", "ValueError: -m must be positive, not 3"),
        ("it isn't there, it isn't", "it isn't here, it isn't"),
        ("a defaced facade", "a decade"),
        ("Segmentation fault", "Bus error"),
        ("x" * (LONGEST_LINE - 1) + "a", "x" * (LONGEST_LINE - 1) + "b"),
    ],
)
def test_what_differs_in_kind_is_not(one: str, other: str) -> None:
    assert signature(failed_with(one)) != signature(failed_with(other))


VALUES = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.integers(min_value=0).map(hex),
    st.text(st.characters(categories=["L", "Zs", "P"], exclude_characters="'\"\\`")).map(repr),
    st.text("abcxyz-_/", min_size=1, max_size=20).map("/".__add__),
)


@given(VALUES, VALUES)
def test_any_value_is_the_same_as_any_other(one: str, other: str) -> None:
    line = "RuntimeError: the value {} is bad"
    assert signature(failed_with(line.format(one))) == signature(failed_with(line.format(other)))


@given(st.text())
def test_any_tail_has_a_signature(tail: str) -> None:
    assert signature(failed_with(tail)) == signature(failed_with(tail))
    assert len(signature(failed_with(tail))[3]) <= LONGEST_LINE


# -- whatever happens --------------------------------------------------------------------------------

ENDS = st.tuples(
    st.integers(0, 9),
    st.sampled_from("abc"),
    st.sampled_from([BAD] * 6 + [GOOD, STOPPED, REFUSED, failed_with("KeyError: 'z'"), failed_with("other")]),
)


@given(st.lists(ENDS, max_size=30), st.integers(0, 6), st.integers(0, 4))
def test_the_verdict_is_what_it_says(
    ends: list[tuple[int, str, Outcome]], stop_after: int, ready: int
) -> None:
    found = canary_after(*ends, stop_after=stop_after).verdict(ready)
    counted = [end for end in ends if end[2].ending not in (Ending.STOPPED, Ending.REFUSED)]
    jobs = tuple(dict.fromkeys(job for job, _, _ in counted))
    hosts = tuple(dict.fromkeys(host for _, host, _ in counted))
    alike = len({signature(outcome) for _, _, outcome in counted}) == 1
    failed = not any(outcome.succeeded for _, _, outcome in counted)
    enough = 0 < stop_after <= len(jobs) and len(hosts) >= min(2, ready)
    if alike and failed and enough:
        assert found == CommonFailure(jobs, hosts, counted[0][2])
    else:
        assert found is None
