"""What a run has to expect: how long its jobs take, whether a deadline is kept, which job fits no window.

Feeds the scheduler with what `forecast` has learned, and says what `outlook` makes of it, at the start and
while the head works. Time is an argument, in Unix seconds.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from datetime import tzinfo

from pisa_fab import outlook
from pisa_fab.allowance import HORIZON
from pisa_fab.events import JobState
from pisa_fab.forecast import ENOUGH_TO_CORRECT, Work
from pisa_fab.history import History
from pisa_fab.model import AtEdge, Batch, Cluster, Host
from pisa_fab.numbering import Numbering

LOOK_EVERY = 60.0  # seconds between two looks at a deadline
MOST_KNOWN = 10_000  # jobs whose expectations are kept; near an edge the same ones are asked for every second


def refuse(
    batch: Batch,
    cluster: Cluster,
    history: History,
    numbering: Numbering,
    jobs: Sequence[int],
    zone: tzinfo,
    time: float,
) -> None:
    """Raise UsageError if a deadline has passed, or these jobs cannot be done before it by what is known."""
    if batch.deadline is None:
        return
    if batch.expect is not None:
        history.forecast.given = batch.expect.seconds
    work = history.forecast.total(jobs, lambda job: batch.plan.job(numbering.index(job), job).arguments)
    known = work or Work(0.0, 0.0, len(jobs))
    verdict = judge(known, batch.deadline.unix(zone, time), cluster.hosts, time)
    if (error := verdict.refusal(zone)) is not None:
        raise error


def judge(work: Work, deadline: float, hosts: Sequence[Host], time: float) -> outlook.Verdict:
    """Say whether so much work is done before a deadline."""
    over_edges = any(host.at_edge is not AtEdge.REQUEUE for host in hosts)
    return outlook.verdict(work, deadline, [host.calendar for host in hosts], time, over_edges=over_edges)


class Prospects:
    """The prospects of one run."""

    def __init__(self, history: History, batch: Batch, cluster: Cluster, zone: tzinfo, time: float) -> None:
        self.history = history
        self.batch = batch
        self.zone = zone
        self.hosts: Sequence[Host] = cluster.hosts
        self.deadline = None if batch.deadline is None else batch.deadline.unix(zone, time)
        self.alarm = outlook.Alarm()
        self.look_at = time + LOOK_EVERY
        self._known: dict[int, float | None] = {}
        self._known_version = -1
        if batch.expect is not None:
            history.forecast.given = batch.expect.seconds
        history.scheduler.expected = self.at_most
        history.scheduler.longest = self.longest

    def at_most(self, job: int) -> float | None:
        """Give how many seconds a job is expected to take at the most, None while nothing is known."""
        forecast = self.history.forecast
        if self._known_version != forecast.version or len(self._known) >= MOST_KNOWN:
            self._known_version = forecast.version
            self._known.clear()
        if job not in self._known:
            found = forecast.expect(self.history.records[job].arguments)
            self._known[job] = found.at_most if found else None
        return self._known[job]

    def longest(self, job: int) -> float | None:
        """Give how many seconds a job should take at the most, None before a few have shown it."""
        if self.history.forecast.learned < ENOUGH_TO_CORRECT:
            return None
        known = [self.at_most(job), self.history.order.last.of(job)]
        return max((seconds for seconds in known if seconds is not None), default=None)

    def begin(self, time: float, say: Callable[[str], None]) -> None:
        """Say what is already known not to work out."""
        work = self.work(time)
        if work is not None and (
            problem := outlook.too_long(work.longest, [host.calendar for host in self.hosts], time, HORIZON)
        ):
            say(problem)
            if any(host.at_edge is AtEdge.PAUSE for host in self.hosts):
                say("such jobs are paused when a window closes, and go on in the next one")
            else:
                say("such jobs are not started; with at_edge: pause they would run over several windows")

    def look(self, time: float, say: Callable[[str], None]) -> None:
        """Say so when the deadline will not be kept, as far as is known; called often."""
        if self.deadline is None or time < self.look_at:
            return
        self.look_at = time + LOOK_EVERY
        work = self.work(time) or Work(0.0, 0.0, self.history.scheduler.unfinished)
        verdict = judge(work, self.deadline, self.hosts, time)
        given = self.batch.expect is not None
        for line in self.alarm.look(verdict, self.zone, self.history.forecast.learned, given=given):
            say(line)

    def work(self, time: float) -> Work | None:
        """Give what is left to do, None while too little is known."""
        history = self.history
        scheduler = history.scheduler
        waiting = array("Q", scheduler.jobs_in(JobState.WAITING))
        todo = history.forecast.total(waiting, lambda job: history.records[job].arguments)
        left = [
            history.forecast.left(history.records[job].arguments, time - (history.started_at(job) or time))
            for job in scheduler.running
        ]
        known = [seconds for seconds in left if seconds is not None]
        if todo is None or len(known) < len(left):
            return None
        return Work(todo.seconds + sum(known), max([todo.longest, *known]), todo.jobs + len(known))
