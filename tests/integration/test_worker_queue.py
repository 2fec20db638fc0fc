"""Orders that a worker gets ahead of its free slots: they wait, begin in turn, and can be had back."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from talk import BOUNDS, Host, Talk, wait_for_text, wait_until_gone


def slots(number: int, **owner: Any) -> dict[str, Any]:
    found = copy.deepcopy(BOUNDS)
    found["phases"] = [[0, number, 19]]
    found["owner"] = {**found["owner"], **owner}  # type: ignore[dict-item]
    return found


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    conversation = Talk(tmp_path)
    conversation.ready(bounds=slots(1))
    yield conversation
    conversation.close()


def endings(talk: Talk, count: int) -> dict[int, dict[str, Any]]:
    """Wait for the ends of so many jobs; in the order in which they came."""
    found: dict[int, dict[str, Any]] = {}
    for message in talk.messages():
        if message["op"] == "ended":
            found[message["job"]] = message["outcome"]
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} of {count} jobs have ended")


def test_orders_wait_for_a_slot_and_begin_in_their_turn(talk: Talk) -> None:
    log = talk.folder / "log"
    began = time.monotonic()
    for job in range(5):
        talk.run("sh", "-c", f"echo begin {job} >> {log}; sleep 0.05; echo end {job} >> {log}", job=job)
    found = endings(talk, 5)
    elapsed = time.monotonic() - began
    lines = [f"{what} {job}" for job in range(5) for what in ("begin", "end")]
    assert log.read_text().splitlines() == lines
    assert list(found) == list(range(5))
    assert "waited" not in found[0]
    waits = [found[job]["waited"] for job in range(1, 5)]
    assert waits == sorted(waits)
    # One after the other: what they waited is no part of what they took.
    assert sum(outcome["seconds"] for outcome in found.values()) <= elapsed + 0.01  # rounded


def test_nothing_of_a_waiting_job_is_there_before_it_begins(talk: Talk) -> None:
    pid = talk.sleeper(0)
    talk.run("true", job=1)
    talk.say(op="recall", most=1)
    assert endings(talk, 1)[1]["ending"] == "stopped"
    assert not talk.path(1, "out").exists()
    talk.say(op="stop")
    endings(talk, 1)
    wait_until_gone(pid)


def test_the_youngest_are_given_back_when_they_are_wanted(talk: Talk) -> None:
    talk.sleeper(0)
    for job in range(1, 6):
        talk.run("true", job=job)
    talk.say(op="recall", most=2)
    given_back = endings(talk, 2)
    assert list(given_back) == [5, 4]
    for outcome in given_back.values():
        assert (outcome["ending"], outcome["seconds"]) == ("stopped", 0.0)
        assert outcome["tail"] == "not started: it was wanted elsewhere"
    talk.say(op="stop", ids=[[0, 1]])
    assert [outcome["ending"] for outcome in endings(talk, 4).values()] == ["stopped", *["exited"] * 3]
    talk.say(op="recall", most=7)  # too late, and no harm
    talk.run("true", job=9)
    assert endings(talk, 1)[9]["exit_code"] == 0


def test_a_waiting_job_is_stopped_by_its_id(talk: Talk) -> None:
    talk.sleeper(0)
    talk.run("true", job=1)
    talk.run("true", job=2)
    talk.say(op="stop", ids=[[1, 1]])
    assert endings(talk, 1)[1]["ending"] == "stopped"
    talk.say(op="stop", ids=[[0, 1]])
    assert endings(talk, 2)[2]["exit_code"] == 0


def test_an_order_that_is_said_twice_is_taken_once(talk: Talk) -> None:
    talk.sleeper(0)
    talk.run("sh", "-c", f"echo once >> {talk.folder}/log", job=1)
    talk.run("sh", "-c", f"echo once >> {talk.folder}/log", job=1)
    talk.say(op="stop", ids=[[0, 1]])
    endings(talk, 2)
    talk.run("true", job=2)
    assert list(endings(talk, 1)) == [2]
    assert (talk.folder / "log").read_text() == "once\n"


@pytest.mark.parametrize("fewer", [0, 1])
def test_what_waits_is_given_back_when_slots_become_fewer(tmp_path: Path, fewer: int) -> None:
    talk = Talk(tmp_path)
    talk.ready(bounds=slots(2))
    talk.sleeper(0)
    talk.sleeper(1)
    talk.run("true", job=2)
    talk.say(op="bounds", **slots(fewer))
    assert endings(talk, 1)[2]["ending"] == "stopped"
    talk.close()


def test_more_slots_are_used_at_once(talk: Talk) -> None:
    talk.sleeper(0)
    talk.run("true", job=1)
    talk.say(op="bounds", **slots(2))
    assert endings(talk, 1)[1]["exit_code"] == 0


def test_where_nothing_can_be_started_all_that_waits_is_given_back(talk: Talk) -> None:
    talk.sleeper(0)
    talk.run("true", job=1)
    talk.run("true", job=2)
    for path in (talk.folder / "attempts").iterdir():
        path.unlink()
    (talk.folder / "attempts").rmdir()
    talk.say(op="stop", ids=[[0, 1]])
    found = endings(talk, 3)
    assert [found[job]["ending"] for job in range(3)] == ["stopped", "refused", "stopped"]


def test_quit_and_the_end_of_the_conversation_begin_nothing_more(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    talk.ready(bounds=slots(1))
    pid = talk.sleeper(0)
    talk.run("touch", str(tmp_path / "begun"), job=1)
    talk.say(op="quit")
    assert {job: outcome["ending"] for job, outcome in endings(talk, 2).items()} == {
        1: "stopped",
        0: "stopped",
    }
    talk.close()
    wait_until_gone(pid)
    assert not (tmp_path / "begun").exists()


def test_a_worker_that_is_taken_up_still_has_what_waits_and_goes_on_meanwhile(host: Host) -> None:
    first = host.talk()
    first.ready(bounds=slots(1))
    gate = host.folder / "gate"
    first.run("sh", "-c", f"echo up; until [ -e {gate} ]; do sleep 0.01; done", job=0)
    wait_for_text(first.path(0, "out"))
    first.run("sh", "-c", "echo 1", job=1)
    first.run("sh", "-c", "echo 2", job=2)
    first.say(op="pong", at=0.0)
    first.say(op="stop", ids=[[2, 1]])  # what is said is heard in order: the others were, too
    assert list(endings(first, 1)) == [2]
    first.hang_up()
    gate.touch()
    wait_for_text(first.path(1, "out"))  # begun while nobody was there
    second = host.talk()
    ready = second.ready(bounds=slots(1))
    assert ready["resumed"]
    assert sorted(ready["holds"]) == [[0, 1], [1, 1], [2, 1]]
    assert sorted(endings(second, 3)) == [0, 1, 2]
