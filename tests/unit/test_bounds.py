"""What a worker does with its jobs when fewer may run, or when somebody else needs the PC."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisa_fab.bounds import PAUSE, REQUEUE, Bounds, Measures, end_excess, measures

FINISH = "finish"
stands = st.lists(st.booleans(), max_size=12)
edges = st.sampled_from([FINISH, PAUSE, REQUEUE])
owners = st.sampled_from([PAUSE, REQUEUE])


def after(paused: list[bool], steps: Measures) -> list[bool | None]:
    """Give what becomes of each job: whether it stands still, None where it is ended."""
    found: list[bool | None] = list(paused)
    for job in steps.pause:
        assert found[job] is False, "only what runs can be paused"
        found[job] = True
    for job in steps.go_on:
        assert found[job] is True, "only what stands still can go on"
        found[job] = False
    for job in steps.end:
        found[job] = None
    return found


def parts(steps: Measures) -> tuple[list[int], list[int], list[int]]:
    return steps.pause, steps.go_on, steps.end


# -- measures ------------------------------------------------------------------------------------------


@given(stands, st.integers(0, 12), edges, owners, st.booleans())
def test_no_job_is_told_two_things(
    paused: list[bool], slots: int, at_edge: str, owner: str, busy: bool
) -> None:
    steps = measures(paused, slots, at_edge, busy=busy, owner=owner)
    told = [*steps.pause, *steps.go_on, *steps.end]
    assert len(told) == len(set(told))
    assert set(told) <= set(range(len(paused)))


@given(stands, st.integers(0, 12), st.sampled_from([PAUSE, REQUEUE]))
def test_exactly_as_many_run_as_may_and_can(paused: list[bool], slots: int, at_edge: str) -> None:
    found = after(paused, measures(paused, slots, at_edge, busy=False, owner=PAUSE))
    assert found.count(False) == min(slots, len(paused))
    if at_edge == PAUSE:
        assert None not in found


@given(stands, st.integers(0, 12))
def test_with_requeue_the_oldest_are_kept_and_run(paused: list[bool], slots: int) -> None:
    found = after(paused, measures(paused, slots, REQUEUE, busy=False, owner=PAUSE))
    assert found == [False if job < slots else None for job in range(len(paused))]
    assert found == after(paused, end_excess(paused, slots))


@given(stands, st.integers(0, 12))
def test_with_pause_the_youngest_that_run_make_room(paused: list[bool], slots: int) -> None:
    steps = measures(paused, slots, PAUSE, busy=False, owner=PAUSE)
    awake = [job for job, stands in enumerate(paused) if not stands]
    assert steps.pause == (awake[slots:] if len(awake) > slots else [])


@given(stands, st.integers(0, 12))
def test_with_pause_the_oldest_that_stand_still_go_on_first(paused: list[bool], slots: int) -> None:
    steps = measures(paused, slots, PAUSE, busy=False, owner=PAUSE)
    asleep = [job for job, stands in enumerate(paused) if stands]
    assert steps.go_on == asleep[: len(steps.go_on)]


@given(stands, st.integers(0, 12))
def test_with_finish_all_run_to_their_ends(paused: list[bool], slots: int) -> None:
    found = after(paused, measures(paused, slots, FINISH, busy=False, owner=PAUSE))
    assert found == [False] * len(paused)


@given(stands, st.integers(0, 12), edges)
def test_beside_somebody_else_nothing_runs(paused: list[bool], slots: int, at_edge: str) -> None:
    assert after(paused, measures(paused, slots, at_edge, busy=True, owner=PAUSE)) == [True] * len(paused)
    assert after(paused, measures(paused, slots, at_edge, busy=True, owner=REQUEUE)) == [None] * len(paused)


@given(stands, st.integers(0, 12), edges, owners, st.booleans())
def test_what_has_been_done_need_not_be_done_again(
    paused: list[bool], slots: int, at_edge: str, owner: str, busy: bool
) -> None:
    found = after(paused, measures(paused, slots, at_edge, busy=busy, owner=owner))
    left = [stands for stands in found if stands is not None]
    assert parts(measures(left, slots, at_edge, busy=busy, owner=owner)) == ([], [], [])


# -- phases --------------------------------------------------------------------------------------------


def test_phases_follow_each_other_on_the_clock_of_the_worker() -> None:
    bounds = Bounds(1000.0, [(0.0, 3, 19), (60.0, 12, 10), (120.5, 0, 19)], PAUSE)
    assert bounds.at(1000.0) == (3, 19)
    assert bounds.at(1059.9) == (3, 19)
    assert bounds.at(1060.0) == (12, 10)
    assert bounds.at(1e9) == (0, 19)
    assert bounds.at_edge == PAUSE


@pytest.mark.parametrize(("now", "change"), [(0.0, 60.0), (59.9, 60.0), (60.0, 120.0), (120.0, None)])
def test_the_next_phase_is_known_and_after_the_last_there_is_none(now: float, change: float | None) -> None:
    assert Bounds(0.0, [(0.0, 3, 19), (60.0, 12, 10), (120.0, 0, 19)], PAUSE).change_after(now) == change


def test_before_the_first_phase_it_holds_already() -> None:
    assert Bounds(100.0, [(0.0, 3, 19), (60.0, 12, 10)], FINISH).at(99.0) == (3, 19)
