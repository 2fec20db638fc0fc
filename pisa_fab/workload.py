"""The jobs on a host: those that wait for a slot, those that run, and those whose end is not acknowledged.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. Here attempts
are taken, started, let stand still, ended, reaped and published. What is said to the head and when, and how
many jobs may run, is `worker`'s business; what is done to the processes of a job, `execution`'s.
"""

from __future__ import annotations

import os

from pisa_fab.bounds import Bounds, measures
from pisa_fab.execution import Attempt, Turns, rename
from pisa_fab.launcher import Launcher, RefusedError
from pisa_fab.leftovers import Leftovers
from pisa_fab.light import signal
from pisa_fab.processes import clock, send

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    import resource
    from collections.abc import Callable
    from typing import Any

    from pisa_fab.restraint import Confinement
    from pisa_fab.template import Template

WORTH_TELLING = 0.001  # seconds that a job waited for its slot


class Workload:
    """All attempts on this host.

    Attributes:
        running: by pid.
        queue: by id: those that wait for a slot, in their order.
        reported: by id, until the head has acknowledged their ends.
        launcher, folders: how processes are started, and the folders of files, open.
        bounds: how many may run, and when.
        nice: of jobs, at least.
        grace: seconds between SIGTERM and SIGKILL of a job that is ended by order.
        confinement: if jobs have a memory limit.
        template: if jobs are to be made by one.
        slots: how many may run, as of the last time that this was regulated.
        is_closed: whether nothing is begun any more.
        began_at: when an attempt was begun last.
    """

    def __init__(
        self,
        setup: dict[str, Any],
        tell: Callable[[dict[str, Any]], None],
        tell_end: Callable[[Attempt], None],
        refusal: Callable[[], tuple[str, str] | None],
    ) -> None:
        """Begin with nothing.

        `tell` is given what the head has to know, `tell_end` an attempt that has ended; `refusal` says why
        nothing may begin now: an ending and words for it, None if there is no reason.
        """
        self.tell, self.tell_end, self.refusal = tell, tell_end, refusal
        self.running: dict[int, Attempt] = {}
        self.queue: dict[tuple[int, int], Attempt] = {}
        self.reported: dict[tuple[int, int], Attempt] = {}
        self.launcher = Launcher(setup)
        self.folders: dict[str, int] = {}
        self.bounds = Bounds(0.0, [(0.0, 1, 0)], "finish")
        self.nice = 0
        self.grace: float = setup["grace"]
        self.confinement: Confinement | None = None
        self.template: Template | None = None
        self.slots = 0
        self.is_closed = False
        self.began_at = 0.0
        self.turns = Turns()
        self.leftovers = Leftovers(self.running, self.marks)

    # -- what there is --------------------------------------------------------------------------------------

    def unfinished(self) -> list[Attempt]:
        """Give the attempts that run, and those that a template is to make."""
        running = list(self.running.values())
        if self.template is None:
            return running
        return running + [request.attempt for request in self.template.waiting.values()]

    def held(self) -> list[Attempt]:
        """Give all that the head does not know to be over."""
        return [*self.unfinished(), *self.queue.values(), *self.reported.values()]

    def marks(self) -> set[str]:
        """Give the marks of processes that may be there."""
        wanted = {attempt.mark for attempt in self.running.values()}
        return wanted | (self.template.marks() if self.template is not None else set())

    def paused(self) -> list[tuple[int, int]]:
        """Give those that stand still, by id."""
        return [attempt.id for attempt in self.running.values() if attempt.paused_at is not None]

    def due(self) -> list[float | None]:
        """Give the times at which something has to be done by time alone."""
        due = [attempt.deadline() for attempt in self.running.values()]
        due.append(self.leftovers.due())
        due.append(self.template.deadline() if self.template is not None else None)
        return due

    # -- beginning ------------------------------------------------------------------------------------------

    def take(self, attempt: Attempt) -> None:
        """Take an order: start it, let it wait for a slot, or say that it cannot be begun."""
        if attempt.id in self.reported or attempt.id in self.queue or self._is_begun(attempt.id):
            return  # said twice
        if not self._may_begin(attempt):
            return
        self.queue[attempt.id] = attempt
        if len(self.running) < self.slots:  # as far as it is seen at once; the worker has slots filled again
            self.fill()

    def fill(self) -> None:
        """Start what waits, as long as there is a slot for it."""
        if not self.queue or self.is_closed:
            return
        slots, nice = self.bounds.at(clock())
        while self.queue and len(self.unfinished()) < slots:
            self._start(self.queue.pop(next(iter(self.queue))), max(nice, self.nice))

    def give_back(self, most: int, why: str) -> None:
        """Report that waiting jobs will not be begun here, the youngest first."""
        for id in list(reversed(self.queue))[:most]:
            attempt = self.queue.pop(id)
            attempt.began = clock()
            self._report(attempt, "stopped", tail="not started: " + why)

    def attend_template(self, readable: list[Any]) -> None:
        """Take charge of what the template has made; start plainly what it cannot make."""
        if self.template is None:
            return
        self.template.folder = self.folders.get("attempts", -1)
        for attempt, pid in self.template.attend(readable):
            attempt.pid, attempt.began = pid, clock()
            nice = max(self.bounds.at(attempt.began)[1], self.nice)
            if self._may_begin(attempt) and pid:
                self._take_charge(attempt, nice)
                self.template.let_go(attempt)
            elif pid:
                self.template.drop(attempt)
            elif attempt.id not in self.reported:
                self._start(attempt, nice)
        while self.template.news:
            self.tell({"op": "notice", "text": self.template.news.pop(0), "once": True})
        self.fill()

    def replace_template(self, template: Template | None) -> None:
        """Have jobs made by another template, or by none; what the one before had not made waits again."""
        if self.template is not None:
            waiting = {attempt.id: attempt for attempt in self.template.withdraw()}
            self.queue = {**waiting, **self.queue}  # `regulate` fills slots
            self.template.end()
        self.template = template

    def _is_begun(self, id: tuple[int, int]) -> bool:
        return any(attempt.id == id for attempt in self.unfinished())

    def _start(self, attempt: Attempt, nice: int) -> None:
        """Start an attempt that stands back so far, or report at once that it could not be started."""
        attempt.began = clock()
        try:
            attempt.pid = self.launcher.start(attempt, self.folders["attempts"], self.template)
        except RefusedError as error:
            self._report(attempt, "refused", tail=f"cannot start {attempt.argv[0]}: {error}")
            self.give_back(len(self.queue), "nothing can be started here at the moment")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            self._report(attempt, "not started", tail=f"cannot start {attempt.argv[0]}: {why}")
        else:
            if attempt.pid:
                self._take_charge(attempt, nice)

    def _may_begin(self, attempt: Attempt) -> bool:
        """Say whether an attempt may begin now; report that it may not."""
        refusal = self.refusal()
        if refusal is not None:
            ending, why = refusal
            self._report(attempt, ending, tail="not started: " + why)
        return refusal is None

    def _take_charge(self, attempt: Attempt, nice: int) -> None:
        """Hold the process of an attempt to what jobs are held to."""
        self.running[attempt.pid] = attempt
        self.began_at = attempt.began
        if self.confinement is not None:
            self.confinement.confine(attempt.pid)
        self.turns.give(attempt.pid, nice)  # what it has started meanwhile: `regulate`

    # -- while they run -------------------------------------------------------------------------------------

    def regulate(self, now: float, *, busy: bool, owner: str) -> None:
        """Let no more jobs run than may; `owner` is what follows while others need this PC (`busy`)."""
        slots, nice = self.bounds.at(now)
        nice = max(nice, self.nice)
        if busy or slots < self.slots:
            self.give_back(len(self.queue), "fewer may run here now")
        self.slots = slots
        attempts = [attempt for attempt in self.running.values() if not attempt.ending]
        stand = [attempt.paused_at is not None for attempt in attempts]
        steps = measures(stand, slots, self.bounds.at_edge, busy=busy, owner=owner)
        for place in steps.end:
            attempts[place].end("stopped", now + self.grace)
        for place in steps.go_on:
            attempts[place].go_on(now)
        for place in steps.pause:
            attempts[place].pause(now)
        for attempt in attempts:
            if attempt.paused_at is not None:
                attempt.pause(now)  # what was just being started
            elif nice > attempt.nice:
                attempt.stand_back(nice)
        self.fill()

    def end_overdue(self, now: float) -> None:
        """End what has run for too long, and what does not end when it is asked to."""
        for attempt in self.running.values():
            deadline = attempt.deadline()
            if deadline is None or now < deadline:
                continue
            if attempt.ending:
                attempt.kill()
            else:
                attempt.end("timeout", now + self.grace)

    def end_too_big(self) -> None:
        """End what uses more memory than it may, where that has to be looked for."""
        if self.confinement is None:
            return
        for attempt in self.running.values():
            if not attempt.ending and self.confinement.is_over(attempt.processes()):
                attempt.ending = "memory"
                attempt.kill()

    def stop(self, ids: list[list[int]] | None) -> None:
        """End these attempts, or all."""
        for id in [id for id in self.queue if ids is None or list(id) in ids]:
            self._report(self.queue.pop(id), "stopped", tail="not started: it was to be stopped")
        self._withdraw(ids)
        for attempt in self.running.values():
            if ids is None or list(attempt.id) in ids:
                attempt.end("stopped", clock() + self.grace)

    def close(self, kill_at: float) -> None:
        """Begin nothing any more, and end all; what runs at `kill_at` still is killed then."""
        self.is_closed = True
        self.give_back(len(self.queue), "the worker is leaving")
        self._withdraw()
        if self.template is not None:
            self.template.end()
        for attempt in self.running.values():
            attempt.end("stopped", kill_at)

    def _withdraw(self, ids: list[list[int]] | None = None) -> None:
        """Report these attempts, or all, as stopped that a template was to make."""
        for attempt in self.template.withdraw(ids) if self.template is not None else []:
            self._report(attempt, "stopped", tail="not started: it was stopped before")

    # -- when they have ended -------------------------------------------------------------------------------

    def reap(self) -> None:
        """Report every job that has ended, and sweep up what it left behind."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return  # nothing runs, and nothing was left
            if ended is None:
                self.leftovers.look_soon()
                return
            attempt = self.running.pop(ended.si_pid, None)
            if attempt is not None:
                # Before the pid is given back: afterwards the group's number could be somebody else's.
                send(-attempt.pid, signal.SIGKILL)
            _, status, usage = os.wait4(ended.si_pid, 0)
            if attempt is not None:
                ended_at = clock()
                self.fill()  # first of all; what that takes is no part of this one's time
                self._conclude(attempt, ended_at, status, usage)
            elif self.template is not None:
                self.template.ended(ended.si_pid)

    def acknowledge(self, ids: list[tuple[int, int, bool]]) -> list[tuple[int, int]]:
        """Forget results that the head has, and give the files of those that count the job's own names.

        Gives the ids of those whose files have them now.
        """
        published = []
        for job, number, publish in ids:
            attempt = self.reported.pop((job, number), None)
            if attempt is None or not publish:
                continue
            folders = self.folders
            try:
                rename(attempt.out, folders["attempts"], attempt.published_out, folders["out"])
                rename(attempt.err, folders["attempts"], attempt.published_err, folders["err"])
            except OSError as error:
                self.tell({"op": "notice", "text": f"job {job}: cannot publish its output: {error}"})
            else:
                published.append((job, number))
        return published

    def _conclude(self, attempt: Attempt, at: float, status: int, usage: resource.struct_rusage) -> None:
        """Report how a process ended, and that it did `at` that time."""
        exited = os.WIFEXITED(status)
        code = os.WEXITSTATUS(status) if exited else None
        number = None if exited else os.WTERMSIG(status)
        succeeded = code == 0 and not attempt.ending
        tail = "" if succeeded else self._last_words(attempt)
        if self.confinement is not None:
            peak = usage.ru_maxrss * 1024
            if not succeeded and not attempt.ending and self.confinement.ran_out(attempt.pid, peak, tail):
                attempt.ending = "memory"
            self.confinement.release(attempt.pid)
        self._report(
            attempt,
            attempt.ending or ("exited" if exited else "signalled"),
            at,
            tail=tail,
            exit_code=code,
            signal=number,
            user=round(usage.ru_utime, 4),
            system=round(usage.ru_stime, 4),
            memory=usage.ru_maxrss * 1024,
        )

    def _last_words(self, attempt: Attempt) -> str:
        """Give the end of its standard error; what it could not write because the disk is full, we say."""
        folder = self.folders["attempts"]
        tail = attempt.tail(folder)
        room = os.fstatvfs(folder)
        if not tail and (room.f_bavail == 0 or (room.f_files and room.f_favail == 0)):
            return "(nothing on its standard error, and there is no room left for its output)"
        return tail

    def _report(self, attempt: Attempt, ending: str, at: float | None = None, **details: object) -> None:
        """Tell the head that an attempt has ended, `at` a time or now; keep that until it is acknowledged."""
        now = clock() if at is None else at
        outcome: dict[str, object] = {"ending": ending, "seconds": round(now - attempt.began, 4)}
        if attempt.began - attempt.given >= WORTH_TELLING:
            outcome["waited"] = round(attempt.began - attempt.given, 4)
        if attempt.stood_still(now):
            outcome["paused"] = round(attempt.stood_still(now), 4)
        if self.confinement is not None and ending == "memory":
            outcome["limit"] = self.confinement.limit
        outcome.update(details)
        attempt.ended = {"op": "ended", "job": attempt.job, "attempt": attempt.number, "outcome": outcome}
        self.reported[attempt.id] = attempt
        self.tell_end(attempt)
