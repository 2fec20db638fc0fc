"""Second attempts: a ledger in which a job that runs may have another attempt, on another host.

A part of `scheduler`, pure as that, and a fold over the same events. When a job is given a second attempt is
decided there, and only if the user allows it (`speculate:`). Everything else is as in `ledger`; the rules:

- The first success of the two counts at once. The other attempt is then stopped; it parts: its slot is free
  again when its end was reported, or its host was lost.
- Any other end of one of the two is put aside: it counts neither as a failure nor as anything else, and the
  other attempt decides. The quarantine looks at it all the same: it may be the host's fault.
- When the host of one is lost, the other goes on as the attempt of the job, and nothing is in doubt. That is
  a loss, because what was lost is run elsewhere, unless the job had to be given up for it. Should the lost
  one come back, it is stopped, like everything that nobody wants any more; else its worker ends it by its
  lease, and nobody waits for that.
- A second attempt is given once in the life of an attempt. A new head forgets it, and only the first is in
  doubt.
"""

from __future__ import annotations

from pisa_fab.events import (
    Action,
    AttemptEnded,
    AttemptStarted,
    CancelAsked,
    Discard,
    Event,
    HostLost,
    HostReady,
    RunOpened,
    SecondStarted,
    Stop,
)
from pisa_fab.ledger import Ledger
from pisa_fab.transitions import Happening


class Doubling(Ledger):
    """Which job runs where, be it twice, and what became of it.

    Attributes:
        seconds: the second attempts on ready hosts, by job; these jobs are in `running`, too; read only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[int, AttemptStarted] = {}
        self._doubled: set[int] = set()  # running jobs that have had a second attempt
        self._parting: dict[tuple[int, int], AttemptStarted] = {}  # stopped, because the other one succeeded

    def snapshot(self) -> dict[str, object]:
        """Give everything that the events determine, as one value to compare."""
        doubled = {"seconds": self.seconds.copy(), "doubled": self._doubled.copy()}
        return super().snapshot() | doubled | {"parting": self._parting.copy()}

    def apply(self, event: Event, now: float = 0.0) -> list[Action]:
        """Take in a fact; give what is to be done then. `now` is in monotonic seconds."""
        if not (self._doubled or self._parting or isinstance(event, SecondStarted)):
            return super().apply(event, now)  # as almost always
        match event:
            case SecondStarted():
                self._on_second(event)
                return []
            case AttemptEnded() if (event.job, event.attempt) in self._parting:
                actions = self._on_parted(event, now)
            case AttemptEnded() if event.job in self.seconds:
                actions = self._on_one_ended(event, now)
            case _:
                actions = super().apply(event, now)
        if isinstance(event, AttemptEnded) and event.job not in self.running:
            self._doubled.discard(event.job)
        return actions

    def _on_second(self, event: SecondStarted) -> None:
        job, first = event.job, self.running.get(event.job)
        self._states.saw(job, event.attempt)
        if first is None or job in self.seconds or event.attempt <= first.attempt:
            return
        if event.host == first.host or event.host not in self._hosts.by_name:
            return
        self._states.move(job, Happening.DOUBLED)
        self.seconds[job] = second = AttemptStarted(job, event.attempt, event.host)
        self._doubled.add(job)
        self._hosts.take(event.host, _guest(second))

    def _on_parted(self, event: AttemptEnded, now: float) -> list[Action]:
        parting = self._parting[event.job, event.attempt]
        if parting.host != event.host:
            return super().apply(event, now)
        self._part_no_more(parting)
        return [Discard(event.job, event.attempt, event.host)]

    def _part_no_more(self, parting: AttemptStarted) -> None:
        del self._parting[parting.job, parting.attempt]
        self._hosts.give_back(parting.host, _guest(parting))

    def _on_one_ended(self, event: AttemptEnded, now: float) -> list[Action]:
        job, ended = event.job, AttemptStarted(event.job, event.attempt, event.host)
        first, second = self.running[job], self.seconds[job]
        if ended not in (first, second):
            return super().apply(event, now)
        if event.outcome.succeeded:
            other = second if ended == first else first
            if ended == second:
                self._put_second_first(job)
            else:
                self._drop_second(job)
            self._parting[job, other.attempt] = other
            self._hosts.take(other.host, _guest(other))
            return [*super().apply(event, now), Stop(job, other.attempt, other.host)]
        self._states.saw(job, event.attempt)
        self._states.move(job, Happening.PUT_ASIDE)
        if ended == first:
            self._put_second_first(job)
        else:
            self._drop_second(job)
        self._quarantine.ended(event, now)
        return [Discard(job, event.attempt, event.host)]

    def _put_second_first(self, job: int) -> None:
        """Let the second attempt be the only one."""
        first, second = self.running[job], self._drop_second(job)
        self._hosts.give_back(first.host, job)
        self.running[job] = second
        self._hosts.take(second.host, job)

    def _drop_second(self, job: int) -> AttemptStarted:
        second = self.seconds.pop(job)
        self._hosts.give_back(second.host, _guest(second))
        return second

    def _on_host_lost(self, event: HostLost, now: float) -> None:
        for job, second in list(self.seconds.items()):
            if event.host == second.host:
                self._drop_second(job)
            elif event.host == self.running[job].host:
                self._put_second_first(job)
            else:
                continue
            self._states.move(job, Happening.ONE_LOST)
            losses = (*self._budgets.lost_with(job), event.host)
            if not self._budgets.is_hopeless(losses):
                self._budgets.lose(job, losses)
        for parting in list(self._parting.values()):
            if parting.host == event.host:
                self._part_no_more(parting)
        super()._on_host_lost(event, now)
        self._doubled &= self.running.keys()

    def _on_host_ready(self, event: HostReady) -> list[Action]:
        wanted = {(job, second.attempt) for job, second in self.seconds.items() if second.host == event.host}
        return [
            action for action in super()._on_host_ready(event) if (action.job, action.attempt) not in wanted
        ]

    def _on_run_opened(self, event: RunOpened, now: float) -> None:
        self.seconds.clear()
        self._doubled.clear()
        self._parting.clear()
        super()._on_run_opened(event, now)

    def _on_cancel_asked(self, event: CancelAsked) -> list[Action]:
        """Stop both of the attempts."""
        stops = super()._on_cancel_asked(event)
        seconds = [self.seconds[stop.job] for stop in stops if stop.job in self.seconds]
        return [*stops, *(Stop(second.job, second.attempt, second.host) for second in seconds)]


def _guest(attempt: AttemptStarted) -> int:
    """Give what occupies the slot of an attempt that is not the job's own: no number of any job.

    A host may run an attempt of a job while it still ends another one of the same job.
    """
    return -1 - (attempt.job << 32 | attempt.attempt)
