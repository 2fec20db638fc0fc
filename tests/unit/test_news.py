"""How long the head collects news: real queues and threads, and turns so long that nobody waits them out."""

from __future__ import annotations

from collections.abc import Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest

from pisa_fab.link import Closed, Said, Wake
from pisa_fab.news import News

FOREVER = 600.0  # seconds
PATIENCE = 60.0  # seconds that a test waits for what must come


def said(host: str, *ops: str) -> Said:
    return Said(host, [{"op": op} for op in ops])


def news_with(lasts: Mapping[tuple[str, int], float], long_turn: float = FOREVER) -> News:
    """Give news of hosts whose slots have something to begin for so long, after so many ends."""
    return News(lambda host, ended: lasts.get((host, ended), 0.0), turn=0.0, long_turn=long_turn)


def waiting(news: News) -> tuple[SimpleQueue[list[Any]], Thread]:
    """Let somebody wait for news; what was got comes through the queue."""
    got: SimpleQueue[list[Any]] = SimpleQueue()
    thread = Thread(target=lambda: got.put(news.wait(FOREVER)), daemon=True)
    thread.start()
    return got, thread


@pytest.mark.parametrize(
    "urgent",
    [
        pytest.param(Wake(), id="signal"),
        pytest.param(Closed("pc01", "it is gone"), id="lost"),
        pytest.param(said("pc01", "ready"), id="ready"),
        pytest.param(said("pc01", "ended", "ping"), id="ping"),
        pytest.param(said("pc02", "ended"), id="idle slot"),
        pytest.param(said("pc01", "ended", "ended"), id="nothing left to begin"),
    ],
)
def test_what_somebody_waits_for_is_taken_up_at_once(urgent: Any) -> None:
    news = news_with({("pc01", 1): FOREVER})
    news.inbox.put(urgent)
    assert news.wait(FOREVER) == [urgent]


def test_ends_wait_for_more_while_the_host_has_jobs_to_begin() -> None:
    news = news_with({("pc01", 1): FOREVER, ("pc01", 2): FOREVER})
    first, second = said("pc01", "ended"), said("pc01", "published", "ended")
    news.inbox.put(first)
    news.inbox.put(second)
    got, thread = waiting(news)
    last = said("pc01", "ended")  # the third leaves a slot idle
    news.inbox.put(last)
    assert got.get(timeout=PATIENCE) == [first, second, last]
    thread.join(PATIENCE)


def test_a_host_without_work_does_not_wait_for_one_that_has_some() -> None:
    news = news_with({("pc01", 1): FOREVER})
    busy, idle = said("pc01", "ended"), said("pc02", "ended")
    news.inbox.put(busy)
    news.inbox.put(idle)
    assert news.wait(FOREVER) == [busy, idle]


@pytest.mark.parametrize(
    ("lasts", "long_turn"),
    [pytest.param(0.05, FOREVER, id="jobs run out"), pytest.param(FOREVER, 0.05, id="turn is over")],
)
def test_ends_do_not_wait_for_ever(lasts: float, long_turn: float) -> None:
    news = news_with({("pc01", 1): lasts}, long_turn)
    item = said("pc01", "ended")
    news.inbox.put(item)
    got, thread = waiting(news)
    assert got.get(timeout=PATIENCE) == [item]
    thread.join(PATIENCE)


def test_nothing_said_is_no_news() -> None:
    assert news_with({}).wait(0.0) == []
