"""What is asked of the head through the run directory, on a real file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from pisa_fab import requests
from pisa_fab.layout import Layout
from pisa_fab.requests import Request


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "run")
    layout.create()
    return layout


@pytest.mark.parametrize("jobs", [None, (3,), (0, 7, 9)])
def test_a_request_arrives_and_its_removal_is_the_answer(
    layout: Layout, jobs: tuple[int, ...] | None
) -> None:
    path = requests.put(layout, Request(jobs, "me@pc07"))
    assert list(requests.pending(layout)) == [(path, Request(jobs, "me@pc07"))]
    assert not requests.is_answered(path)
    requests.remove(path)
    assert requests.is_answered(path)
    assert list(requests.pending(layout)) == []


def test_nobody_else_can_ask(layout: Layout) -> None:
    assert layout.requests.stat().st_mode & 0o777 == 0o700


def test_a_run_directory_of_an_older_version_can_be_asked(layout: Layout) -> None:
    layout.requests.rmdir()
    assert list(requests.pending(layout)) == []
    requests.put(layout, Request(None, "me"))
    assert len(list(requests.pending(layout))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"cancel": 3, "by": "me"}', '{"cancel": ["x"]}'])
def test_what_is_no_request_is_told_apart(layout: Layout, text: str) -> None:
    layout.request("torn").write_text(text)
    assert [request for _, request in requests.pending(layout)] == [None]


def test_what_is_no_text_at_all_is_no_request(layout: Layout) -> None:
    layout.request("torn").write_bytes(b"\xff\xfe\0")
    assert [request for _, request in requests.pending(layout)] == [None]


def test_one_that_cannot_be_removed_is_told_apart(layout: Layout) -> None:
    assert requests.remove(layout.request("gone"))
    layout.request("folder").mkdir()  # nobody can unlink that, not even root
    assert not requests.remove(layout.request("folder"))


def test_a_request_that_is_being_written_is_not_seen(layout: Layout) -> None:
    (layout.requests / "half.new").write_text("{")
    assert list(requests.pending(layout)) == []
