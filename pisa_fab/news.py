"""What the head is told, and how long it waits for more before it does something about it.

Under load one look at many messages costs far less than many looks at one, so a turn of the head's loop takes
up what was said for a while. Not for long where a slot stands idle meanwhile. Hosts that are sent jobs ahead
of their slots have something to do until the next order, and the ends of jobs there can wait.

What is made of the news is `head`'s business; who says them, `link`'s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue

from pisa_fab.link import Closed, Inbox, Said, Wake
from pisa_fab.processes import clock

TURN = 0.01  # seconds between two turns of the loop, at least
LONG_TURN = 0.1  # the same, at most, while nobody who has said something waits for an answer
CALM = ("ended", "published")  # what a worker says that may have more jobs to begin
SHARE = 0.5  # of the time for which they last; the answer is on its way in the rest


class News:
    """The inbox, and what to take out of it at once.

    Attributes:
        inbox: where links put what they learn.
    """

    def __init__(
        self, lasts: Callable[[str, int], float], turn: float = TURN, long_turn: float = LONG_TURN
    ) -> None:
        """Make it; turns are in seconds.

        `lasts` says for how many seconds the slots of a host have something to begin after so many ends.
        """
        self.inbox: Inbox = SimpleQueue()
        self._lasts = lasts
        self._turn, self._long_turn = turn, long_turn
        self._turned_at = clock()

    def wait(self, patience: float) -> list[Said | Closed | Wake]:
        """Wait for so many seconds until something is said; give all that is said in this turn."""
        news: list[Said | Closed | Wake] = []
        ended: Counter[str] = Counter()
        until, soon = self._turned_at + self._long_turn, self._turned_at + self._turn
        try:
            news.append(self.inbox.get(timeout=patience))
            until = min(until, clock() + self._patience(news[-1], ended))
            while until > soon:
                news.append(self.inbox.get(timeout=max(0.0, until - clock())))
                until = min(until, clock() + self._patience(news[-1], ended))
            time.sleep(max(0.0, soon - clock()))  # and not woken for every message
            while True:
                news.append(self.inbox.get_nowait())
        except Empty:
            if news:
                self._turned_at = clock()
            return news

    def _patience(self, item: Said | Closed | Wake, ended: Counter[str]) -> float:
        """Give the seconds for which who says this can do without an answer."""
        if not isinstance(item, Said) or not all(message["op"] in CALM for message in item.messages):
            return 0.0
        ended[item.host] += sum(message["op"] == "ended" for message in item.messages)
        return SHARE * self._lasts(item.host, ended[item.host])
