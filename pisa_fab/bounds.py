"""How many jobs a host may run now and soon, and which of them stand still meanwhile.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8; and it is pure:
no clock, no process. The head sends what its calendar says (`worker`, message `bounds`), and the worker keeps
to it by itself, also while it hears nothing. Who else uses the PC is `presence`'s business.
"""

from __future__ import annotations

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

PAUSE, REQUEUE = "pause", "requeue"  # what to do with jobs that are too many; anything else: let them finish


class Bounds:
    """What the head allows, phase by phase.

    Attributes:
        at_edge: what happens to jobs that are too many when a phase begins: `finish`, `pause`, `requeue`.
    """

    def __init__(self, now: float, phases: Iterable[Sequence[Any]], at_edge: str) -> None:
        """Take over the phases: [in so many seconds, slots, nice] each, the first in 0 seconds."""
        self._phases = [(now + delay, int(slots), int(nice)) for delay, slots, nice in phases]
        self.at_edge = at_edge

    def at(self, now: float) -> tuple[int, int]:
        """Give the slots and the nice value that hold at a time, of the worker's clock."""
        _, slots, nice = self._phases[0]
        for begin, its_slots, its_nice in self._phases:
            if begin > now:
                break
            slots, nice = its_slots, its_nice
        return slots, nice

    def change_after(self, now: float) -> float | None:
        """Give the time of the next phase, None if there is none."""
        return min((begin for begin, _, _ in self._phases if begin > now), default=None)


class Measures:
    """What is to be done with the jobs of a host, each by the place it has in the list: the oldest first.

    Attributes:
        pause, go_on, end: which jobs are to stand still, to go on, to be ended and run elsewhere or later.
    """

    def __init__(self, pause: Sequence[int] = (), go_on: Sequence[int] = (), end: Sequence[int] = ()) -> None:
        self.pause = list(pause)
        self.go_on = list(go_on)
        self.end = list(end)


def measures(paused: Sequence[bool], slots: int, at_edge: str, *, busy: bool, owner: str) -> Measures:
    """Say what to do with the jobs of a host; `paused` says of each whether it stands still now.

    `slots` is how many may run, `busy` whether somebody else needs the PC, `owner` what follows then: `pause`
    or `requeue`. Of too many jobs the youngest make room, because least is lost with them; jobs that stand
    still go on in the order in which they were started.
    """
    everybody = range(len(paused))
    if busy:
        if owner == REQUEUE:
            return Measures(end=everybody)
        return Measures(pause=[job for job in everybody if not paused[job]])
    awake = [job for job in everybody if not paused[job]]
    excess = len(awake) - slots
    if excess > 0 and at_edge == PAUSE:
        return Measures(pause=awake[-excess:])
    if at_edge == REQUEUE:
        return end_excess(paused, slots)
    asleep = [job for job in everybody if paused[job]]
    room = slots - len(awake) if at_edge == PAUSE else len(asleep)
    return Measures(go_on=asleep[: max(0, room)])


def end_excess(paused: Sequence[bool], slots: int) -> Measures:
    """End the youngest of too many jobs, whether they run or not, and let the others go on."""
    kept = [job for job in range(len(paused)) if job < slots]
    return Measures(go_on=[job for job in kept if paused[job]], end=range(len(kept), len(paused)))
