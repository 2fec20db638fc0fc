"""Looks after a PC while jobs run there: who else needs it, what the jobs use, what the note says of them.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. It looks about
once a second and has jobs stand still or go on by itself (`Workload.regulate`), whether there is a head or
not. How other people show is `presence`'s business, what jobs are held to `restraint`'s.
"""

from __future__ import annotations

import os
import time

from pisa_fab.bounds import REQUEUE, Bounds
from pisa_fab.notes import Note, stop_order
from pisa_fab.presence import Presence
from pisa_fab.processes import clock, descendants
from pisa_fab.restraint import stray_sessions

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pisa_fab.workload import Workload

LOOK_INTERVAL = 1.0  # seconds between two looks at other people, and at the memory of jobs
IDLE_INTERVAL = 5.0  # the same while nothing runs and nobody's coming changes that
OUTSIDE = "no more may run at this hour"
IGNORE = "ignore"  # the rule for a PC that nobody else uses


class Caretaker:
    """Keeps jobs within what the head, and other people at this PC, allow.

    `say` is given what the head has to know, `say_state` a new `state`; `leave` is called with a reason when
    the user wants no jobs at this PC.
    """

    def __init__(
        self,
        work: Workload,
        say: Callable[[dict[str, Any]], None],
        say_state: Callable[[dict[str, Any]], None],
        leave: Callable[[str], None],
    ) -> None:
        self.say, self.say_state, self.leave = say, say_state, leave
        self.work = work
        self.presence: Presence | None = None  # once the head has said what other people may expect
        self.owner: dict[str, Any] = {}  # the rules of `presence`
        self.busy_since: float | None = None  # since when somebody else needs this PC
        self.note: Note | None = None
        self.complained = ""  # of the note, to the head
        self.looked_at = self.look_at = 0.0
        self.regulated_at = 0.0
        self.told: tuple[object, ...] = ()  # what the head knows of busy, full and paused

    def take_bounds(self, message: dict[str, Any]) -> None:
        """Take over how many jobs may run and when, and what other people may expect."""
        self.work.bounds = Bounds(clock(), message["phases"], message["at_edge"])
        self.owner = message["owner"]
        if self.presence is None:
            self.presence = Presence(self.owner)
        else:
            self.presence.adjust(self.owner)
        self.look_at = 0.0  # by other rules the same may be too little, or enough

    def take_note(self, wanted: str | None, facts: dict[str, Any]) -> None:
        """Keep a note for people at this PC, unless none is wanted; facts are for it."""
        if wanted is not None:
            self.note = self.note or Note(wanted, facts)
            self.note.update(facts)

    def may_run(self, now: float) -> bool:
        """Say whether any job may run now."""
        assert self.presence is not None
        return not self.presence.busy and self.work.bounds.at(now)[0] > 0

    def due(self) -> list[float | None]:
        """Give the times at which something has to be done."""
        if self.presence is None:
            return []
        return [self._next_look(), self.work.bounds.change_after(self.regulated_at)]

    def attend(self) -> None:
        """Look who else needs this PC, about once a second, and let jobs stand still or go on."""
        if self.presence is None or self.work.is_closed:
            return
        now = clock()
        change = self.work.bounds.change_after(self.regulated_at)
        if now >= self._next_look():
            self.look(now)
            self.regulate(now)
        elif change is not None and now >= change:
            self.regulate(now)

    def look(self, now: float) -> None:
        """Look at the machine and at what the jobs use; leave if the user said so at this PC."""
        assert self.presence is not None
        self.looked_at = now
        is_watchful = self.work.running or self.owner["policy"] != IGNORE
        self.look_at = now + (LOOK_INTERVAL if is_watchful else IDLE_INTERVAL)
        guardian = os.getppid()
        jobs = descendants(os.getpid())
        self.presence.look(now, [os.getpid(), *([guardian] if guardian > 1 else []), *jobs])
        self.busy_since = (self.busy_since or now) if self.presence.busy else None
        stray_sessions([os.getpid(), *jobs], self.work.nice)
        self.work.end_too_big()
        folder = os.path.dirname(self.note.wanted) if self.note is not None else ""
        order = stop_order(os.geteuid(), folder) if folder else ""
        if order:
            self.leave(order)

    def regulate(self, now: float) -> None:
        """Let no more jobs run than may, none while somebody else needs this PC, and as many as may."""
        if self.presence is None or self.work.is_closed:
            return
        self.regulated_at = now
        owner = self.owner["policy"]
        if self.busy_since is not None and now >= self.busy_since + self.owner["give_back"]:
            owner = REQUEUE
        self.work.regulate(now, busy=bool(self.presence.busy), owner=owner)
        before = self.told
        state = self.state()
        if self.told != before:
            self.say_state(state)
        self._update_note(state, now)

    def state(self) -> dict[str, Any]:
        """Give what the head has to know of other people and of what stands still; it is told then."""
        assert self.presence is not None
        paused = self.work.paused()
        self.told = (bool(self.presence.busy), bool(self.presence.full), *paused)
        return {"busy": self.presence.busy, "full": self.presence.full, "paused": paused}

    def remove_note(self) -> None:
        """Leave no note behind."""
        if self.note is not None:
            self.note.remove()

    def _next_look(self) -> float:
        """Give when to look next: soon where a job has begun since the last time."""
        if self.work.began_at <= self.looked_at:
            return self.look_at
        return min(self.look_at, max(self.work.began_at, self.looked_at + LOOK_INTERVAL))

    def _update_note(self, state: dict[str, Any], now: float) -> None:
        if self.note is None:
            return
        paused = len(state["paused"])
        why = state["busy"] or state["full"] or (OUTSIDE if paused else "")
        running = len(self.work.running) - paused
        self.note.say(running, paused, self.work.bounds.at(now)[0], why, time.time())
        if self.note.trouble and self.note.trouble != self.complained:
            self.say({"op": "notice", "text": self.note.trouble})
        self.complained = self.note.trouble
