"""Which hosts are trusted, and with how many slots: a host that fails what others can do is taken out.

A part of the scheduler, and pure like it: names and numbers, time is an argument. `ready`, `resized`, `gone`,
`ended` and `apply` are a fold over the events; `decide` says what is due, and whoever applies that feeds it
back through `apply`, so a replay takes the same way as life. Only *when* something is due is the clock's
alone. A restart begins with a new `Quarantine`.

How a host stands:

- trusted: all its slots.
- quarantined: none, because jobs that failed there succeeded elsewhere, or because it failed several jobs in
  a row while another host failed none. What it failed since its last success is forgiven: those jobs are run
  again, and that does not count. A job that failed on another host, too, is to blame itself.
- probed: one slot, when its time is over. The first success clears it, a failure sends it back for longer.

At most half of the hosts are quarantined at once. A host that is due when there is no room waits for it.

Where many jobs fail by themselves, a good host has a row of failures by chance. So forgiven jobs are
witnesses: when two of them (or the only one) fail again on another host, where nothing else has failed, the
accused is excused. It is probed at once, that quarantine does not lengthen its next, and from then on rows
must be twice as long. There is no excuse where jobs succeeded elsewhere.

A job is forgiven a few times and is to blame itself after that. But a probe with a job that had failed on
that host before says nothing new of the job: it is forgiven once more, and that does not count.

A host that refuses to start anything rests, however it stands: no slots for some seconds, without an event
and without a limit to how many rest, because a full home stops them all and heals for them all.

A job that takes too long does so on most hosts, and a host that hangs does not eat a batch fast. So a timeout
is not counted among the failures in a row, and neither is a job that uses more memory than it may. But it is
evidence when the job then succeeds elsewhere, and it fails a probe, because that host is under suspicion for
something else already.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, islice
from math import inf

from pisa_fab.events import AttemptEnded, Ending, HostCleared, HostProbed, HostQuarantined
from pisa_fab.model import job_name

Verdict = HostQuarantined | HostProbed | HostCleared

QUARANTINE = 60.0  # seconds, the first time; doubled with every probe that fails
LONGEST_QUARANTINE = 3600.0
REST = 5.0  # seconds after a refusal; doubled with every rest that ends in another one
LONGEST_REST = 60.0
EVIDENCE = 2  # so many jobs that failed here and succeeded elsewhere
EXCUSES = 2  # so many forgiven jobs that failed again elsewhere; or as many as there are
FEWEST_IN_A_ROW = 3  # or as many as the host has slots, because those may fail for one passing reason
MOST_FORGIVEN = 2  # times that a job's failures are forgiven; after that it is to blame itself
MOST_HELD = 1000  # failures of each kind remembered against a host, the latest
MOST_NAMED = 5  # jobs in a reason


class Standing(Enum):
    """How far a host is trusted."""

    TRUSTED = "trusted"
    QUARANTINED = "quarantined"
    PROBED = "probed"


class Blame(Enum):
    """To whom a failure is put down, for as long as nothing else is known."""

    HOST = "host"
    TIMEOUT = "timeout"  # or memory: to the host, but not among its failures in a row
    JOB = "job"  # it failed on another host, too, or was forgiven often enough
    PROVEN = "proven"  # to the host: the job has succeeded elsewhere since


@dataclass(slots=True)
class _Host:
    """A host and what is held against it since its last success there."""

    name: str
    ready: bool = False
    slots: int = 0
    standing: Standing = Standing.TRUSTED
    passed: bool = False  # its probe
    terms: int = 0  # quarantines with no more than a probe between them
    leniency: int = 0  # of the run when a row of failures put it into quarantine; 0 if none did
    excuses: int = 0  # still needed for it to be excused; 0 if it cannot be
    refusals: int = 0  # rests since it could start something last
    held: dict[Blame, dict[int, None]] = field(default_factory=lambda: {blame: {} for blame in Blame})

    def clear(self) -> None:
        """Forget the failures."""
        for jobs in self.held.values():
            jobs.clear()

    def hold(self, job: int, blame: Blame) -> None:
        """Hold the failure of a job against it; the oldest is forgotten when there are too many."""
        for jobs in self.held.values():
            jobs.pop(job, None)
        jobs = self.held[blame]
        jobs[job] = None
        if len(jobs) > MOST_HELD:
            del jobs[next(iter(jobs))]

    def change(self, job: int, blame: Blame) -> None:
        """See a failure in another light, if it is held against it."""
        if any(job in jobs for jobs in self.held.values()):
            self.hold(job, blame)

    @property
    def blamed(self) -> bool:
        """Whether it is to blame for any failure."""
        return bool(self.held[Blame.HOST] or self.held[Blame.TIMEOUT])

    @property
    def proven(self) -> bool:
        """Whether enough of what failed there has succeeded elsewhere."""
        return len(self.held[Blame.PROVEN]) >= EVIDENCE

    @property
    def clean(self) -> bool:
        """Whether it is trusted and nothing has failed there since, whoever was to blame."""
        return (self.standing is Standing.TRUSTED or self.passed) and not any(self.held.values())

    @property
    def open(self) -> bool:
        """Whether it would be given jobs if it were trusted."""
        return self.ready and self.slots > 0

    @property
    def convicted(self) -> bool:
        """Whether it is to be quarantined whatever other hosts do."""
        if not self.open or self.passed or self.standing is Standing.QUARANTINED:
            return False
        return self.proven or (self.standing is Standing.PROBED and self.blamed)

    def suspected(self, leniency: int) -> bool:
        """Say whether it is to be quarantined if another host is innocent."""
        if not self.open or self.standing is not Standing.TRUSTED or self.proven:
            return False
        row = leniency * max(FEWEST_IN_A_ROW, self.slots)
        return len(self.held[Blame.HOST]) >= min(row, MOST_HELD)

    def verdict(self) -> HostQuarantined | HostCleared:
        """Say what becomes of it, once it may be decided."""
        if self.passed:
            return HostCleared(self.name)
        row, proof = self.held[Blame.HOST], self.held[Blame.PROVEN]
        jobs = (*row, *self.held[Blame.TIMEOUT])
        if self.standing is Standing.QUARANTINED:
            reason = f"failed {_count(jobs)} that it still had {_names(jobs)}"
        elif self.standing is Standing.PROBED and self.blamed:
            reason = f"failed its probe {_names(jobs)}"
        elif self.proven:
            reason = f"{_count(proof)} that failed here succeeded elsewhere {_names(proof)}"
        else:
            reason = f"failed {_count(row)} in a row {_names(row)}, another host none so far"
        return HostQuarantined(self.name, reason, jobs)

    def snapshot(self) -> tuple[object, ...]:
        """Give all of it that the events determine; refusals follow from the clock."""
        held = [list(jobs) for jobs in self.held.values()]
        state = (self.ready, self.slots, self.standing, self.passed, self.terms, self.leniency, self.excuses)
        return (*state, held)


def _count(jobs: Collection[int]) -> str:
    return "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"


def _names(jobs: Collection[int]) -> str:
    names = [job_name(job) for job in islice(jobs, MOST_NAMED)]
    more = f" and {len(jobs) - MOST_NAMED} more" if len(jobs) > MOST_NAMED else ""
    return f"({', '.join(names)}{more})"


class Quarantine:
    """The hosts of a run and how far each is trusted."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._leniency = 1  # so many times longer than at first a row has to be
        # Where a job has failed that has not succeeded since; failures that were forgiven are left out.
        self._failed_at: dict[int, tuple[str, ...]] = {}
        # Of jobs that were forgiven and have not succeeded since: on which hosts, and whom they may excuse.
        self._forgiven: dict[int, tuple[str, ...]] = {}
        self._witnesses: dict[int, str] = {}
        # Groups of hosts, each in the order in which they joined it; `_review` keeps them.
        self._open: dict[str, None] = {}
        self._innocent: dict[str, None] = {}  # open, and nothing has failed there
        self._out: dict[str, None] = {}  # open, but quarantined
        self._settled: dict[str, None] = {}  # passed their probe; or are out, and failed what they still had
        self._convicted: dict[str, None] = {}
        self._suspected: dict[str, None] = {}
        # The clock's part: until when, in monotonic seconds.
        self._terms: dict[str, float] = {}  # of the quarantined hosts
        self._rests: dict[str, float] = {}
        self._due = inf  # the first of them
        self._moved: set[str] = set()

    # -- what one may ask ----------------------------------------------------------------------------

    def slots(self, host: str) -> int:
        """Say how many jobs a host may run at once: 0 while it is quarantined, resting or away."""
        found = self._hosts.get(host)
        if found is None or not found.ready or host in self._rests:
            return 0
        if found.standing is Standing.TRUSTED:
            return found.slots
        return min(found.slots, 1) if found.standing is Standing.PROBED else 0

    def standing(self, host: str) -> Standing:
        """Say how far a host is trusted; one that nothing is known of is."""
        found = self._hosts.get(host)
        return found.standing if found else Standing.TRUSTED

    def until(self, host: str) -> float | None:
        """Say until when a host rests or is quarantined, at least; None if it does neither."""
        return self._rests.get(host, self._terms.get(host))

    def moved(self) -> set[str]:
        """Give the hosts whose `slots` may have changed since this was asked last."""
        moved, self._moved = self._moved, set()
        return moved

    def wake_at(self) -> float | None:
        """Say when `decide` may have something new to say though nothing happens, or slots may change."""
        return None if self._due == inf else self._due

    def snapshot(self) -> dict[str, object]:
        """Give everything that the events determine, as one value to compare; no times, no rests."""
        ordered = (self._out, self._settled, self._convicted, self._suspected)
        return {
            "hosts": {name: host.snapshot() for name, host in self._hosts.items()},
            "leniency": self._leniency,
            "failed at": self._failed_at.copy(),
            "forgiven": self._forgiven.copy(),
            "witnesses": self._witnesses.copy(),
            "groups": (len(self._open), len(self._innocent), *map(list, ordered)),
        }

    def shift(self, seconds: float) -> None:
        """Let all times be later by so many seconds."""
        for times in (self._terms, self._rests):
            times.update({host: until + seconds for host, until in times.items()})
        self._due += seconds

    # -- what is due ---------------------------------------------------------------------------------

    def decide(self, now: float) -> list[Verdict]:
        """Give the verdicts that are due, in order; they take effect when they come back through `apply`.

        Rests that are over end here, too.
        """
        found: list[Verdict] = [self._hosts[name].verdict() for name in self._settled]
        room = len(self._open) // 2 - len(self._out)
        if now >= self._due or room < 0:
            for name in [name for name, until in self._rests.items() if until <= now]:
                del self._rests[name]
                self._move(self._hosts[name])
            # Those whose time is over; more if so many others went away that no half is left.
            serving = sorted(self._out, key=self._terms.__getitem__)
            back = [name for place, name in enumerate(serving) if self._terms[name] <= now or place < -room]
            found += [HostProbed(name) for name in back]
            room += len(back)
        if room > 0:
            accused = chain(self._convicted, self._suspected if self._innocent else ())
            found += [self._hosts[name].verdict() for name in islice(accused, room)]
        return found

    # -- what has happened ---------------------------------------------------------------------------

    def ready(self, host: str, slots: int, *, resumed: bool = False) -> None:
        """Take in that a worker is up.

        A new worker gets a fresh start, but not out of quarantine; one that was taken up again (`resumed`)
        is as it was.
        """
        found = self._host(host)
        found.ready, found.slots = True, slots
        if not resumed:
            found.refusals = 0
            self._rests.pop(host, None)
            if found.standing is Standing.TRUSTED:
                found.clear()
        self._move(found)

    def resized(self, host: str, slots: int) -> None:
        """Take in that a host has another number of slots from here on."""
        found = self._host(host)
        found.slots = slots
        self._move(found)

    def gone(self, host: str) -> None:
        """Take in that a host was lost or has left."""
        if host in self._hosts:
            self._hosts[host].ready = False
            self._rests.pop(host, None)
            self._move(self._hosts[host])

    def ended(self, event: AttemptEnded, now: float) -> None:
        """Take in the end of an attempt; only of one whose result was accepted."""
        host, ending = self._host(event.host), event.outcome.ending
        if ending is Ending.REFUSED:
            self._on_refused(host, now)
            return
        if host.refusals and not self._rests_at(host, now):  # then, only what was started before it ends
            host.refusals = 0
        if event.outcome.succeeded:
            self._on_succeeded(event.job, host)
        elif ending is not Ending.STOPPED:
            self._excuse(event.job, host, now)
            is_its_own = ending in (Ending.TIMEOUT, Ending.MEMORY)
            self._on_failed(event.job, host, Blame.TIMEOUT if is_its_own else Blame.HOST)

    def apply(self, event: Verdict, now: float) -> None:
        """Take in a verdict, of `decide` or of the journal."""
        host = self._host(event.host)
        if isinstance(event, HostQuarantined):
            self._on_quarantined(host, event.jobs, now)
        else:
            if isinstance(event, HostProbed):
                host.standing = Standing.PROBED
                host.clear()
            else:
                host.standing = Standing.TRUSTED
            host.passed = False
            self._terms.pop(host.name, None)
        self._move(host)

    def _on_quarantined(self, host: _Host, jobs: tuple[int, ...], now: float) -> None:
        for job in jobs:
            if not self._fails_again(job, host):
                self._forgiven[job] = (*self._forgiven.get(job, ()), host.name)
            self._witnesses[job] = host.name
            self._failed_at.pop(job, None)  # it has failed nowhere else, or it would be to blame itself
        if host.standing is not Standing.QUARANTINED:  # what it still had is no reason to keep it longer
            if host.standing is Standing.TRUSTED:
                host.terms, host.leniency = 0, 0 if host.proven else self._leniency
            host.terms += 1
            host.excuses = 0 if host.proven else min(EXCUSES, len(jobs))
            host.standing = Standing.QUARANTINED
            self._terms[host.name] = now + min(QUARANTINE * 2 ** min(host.terms - 1, 10), LONGEST_QUARANTINE)
        host.clear()

    def _on_succeeded(self, job: int, host: _Host) -> None:
        for name in self._failed_at.pop(job, ()):
            self._hosts[name].change(job, Blame.PROVEN)
            self._review(self._hosts[name])
        self._forgiven.pop(job, None)
        self._witnesses.pop(job, None)
        if host.standing is Standing.QUARANTINED or host.clean:
            return  # in quarantine, it is a job of before and says nothing of a new start
        host.clear()
        if host.standing is Standing.PROBED:
            host.passed, host.excuses = True, 0
        self._review(host)

    def _on_failed(self, job: int, host: _Host, blame: Blame) -> None:
        earlier = self._failed_at.get(job, ())
        if host.name not in earlier:
            self._failed_at[job] = (*earlier, host.name)
        others = [self._hosts[name] for name in earlier if name != host.name]
        for other in others:
            other.change(job, Blame.JOB)
            self._review(other)
        forgivable = len(self._forgiven.get(job, ())) < MOST_FORGIVEN or self._fails_again(job, host)
        host.hold(job, blame if forgivable and not others else Blame.JOB)
        self._review(host)

    def _excuse(self, job: int, host: _Host, now: float) -> None:
        """Excuse the host that a job was forgiven, if it now fails where nothing else has failed."""
        if not host.clean:
            return
        accused = self._hosts.get(self._witnesses.pop(job, ""))
        if accused is None or not accused.excuses:
            return
        accused.excuses -= 1
        if accused.excuses:
            return
        accused.terms -= 1
        self._leniency = max(self._leniency, 2 * accused.leniency)
        for name in list(self._suspected):
            self._review(self._hosts[name])
        if accused.standing is Standing.QUARANTINED:
            self._terms[accused.name] = now
            self._move(accused)

    def _on_refused(self, host: _Host, now: float) -> None:
        if not self._rests_at(host, now):  # or its other slots were refused at the same time
            self._rests[host.name] = now + min(REST * 2 ** min(host.refusals, 10), LONGEST_REST)
            host.refusals += 1
            self._move(host)

    def _rests_at(self, host: _Host, now: float) -> bool:
        """Say whether a host rests; the rests of a run that is only read about are ended by nobody else."""
        return now < self._rests.get(host.name, -inf)

    def _fails_again(self, job: int, host: _Host) -> bool:
        """Say whether a job was given to a probed host on which it had failed before."""
        return host.standing is Standing.PROBED and host.name in self._forgiven.get(job, ())

    # -- keeping the books ---------------------------------------------------------------------------

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host(name)
        return self._hosts[name]

    def _review(self, host: _Host) -> None:
        """Put a host that has changed into the groups to which it belongs now."""
        quarantined = host.standing is Standing.QUARANTINED
        for group, belongs in (
            (self._open, host.open),
            (self._innocent, host.open and host.clean),
            (self._out, host.open and quarantined),
            (self._settled, host.passed or (quarantined and host.blamed)),
            (self._convicted, host.convicted),
            (self._suspected, host.suspected(self._leniency)),
        ):
            if belongs:
                group.setdefault(host.name)
            else:
                group.pop(host.name, None)

    def _move(self, host: _Host) -> None:
        """Note that the slots of a host, or a time, may be others; find the first of the times."""
        self._review(host)
        self._moved.add(host.name)
        terms = (self._terms[name] for name in self._out)
        self._due = min((*self._rests.values(), *terms), default=inf)
