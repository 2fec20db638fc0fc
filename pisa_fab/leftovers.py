"""What jobs leave behind when they have ended: processes outside of their groups, looked for and killed.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. Which jobs run,
and when one has ended, is `workload`'s business.
"""

from __future__ import annotations

import os

from pisa_fab.processes import children, clock, descendants, kill_all, mark_of

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

LOOKS = 3  # further ones at processes that cannot be told whose they are
LOOK_INTERVAL = 0.3  # seconds between them
BREAK = 0.05  # seconds between two of them while one job ends after the other


class Leftovers:
    """Sweeps up after jobs. What they left has become a child of the worker when its parent ended.

    `jobs` are the pids of those that run, at any time; `marks` gives those of all that may be there.
    """

    def __init__(self, jobs: Collection[int], marks: Callable[[], set[str]]) -> None:
        self._jobs = jobs
        self._marks = marks
        self._has_unmarked = False  # whether there are processes that cannot be told whose they are
        self._looks = 0  # still to be made
        self._look_at = self._looked_at = 0.0

    def due(self) -> float | None:
        """Give when to look again, None for never."""
        return self._look_at if self._looks else None

    def look_soon(self) -> None:
        """Look now, or in a moment where jobs end so fast that it would have to be done all the time."""
        now = clock()
        if now >= self._looked_at + BREAK:
            self._look(LOOKS)
        elif self._looks < LOOKS + 1:
            self._looks, self._look_at = LOOKS + 1, self._looked_at + BREAK

    def look_if_due(self, now: float) -> None:
        """Look again if it is time for that."""
        if self._looks and now >= self._look_at:
            self._look(self._looks - 1)

    def _look(self, again: int) -> None:
        """Kill what was left behind, and look again if something is there that cannot be told whose it is.

        A process that is just executing another program shows no environment for a moment.
        """
        kill_all(self._strays)
        self._looked_at = clock()
        self._looks = again if self._has_unmarked else 0
        self._look_at = self._looked_at + LOOK_INTERVAL

    def _strays(self) -> list[int]:
        """Give what jobs that have ended left outside their process groups.

        What cannot be told whose it is, because it has cleared its environment, is left alone as long as a
        job runs that may need it.
        """
        others = [pid for pid in children(os.getpid()) if pid not in self._jobs]
        if not others:
            self._has_unmarked = False
            return []
        wanted = self._marks()
        marks = {pid: mark_of(pid) for pid in others}
        self._has_unmarked = not all(marks.values())
        left = [pid for pid in others if marks[pid] not in wanted and (marks[pid] or not self._jobs)]
        return left + descendants(*left)
