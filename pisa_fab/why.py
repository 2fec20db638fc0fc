"""Why a job is where it is: answers to "why is this job not running?", from what the journal amounts to.

Pure: whether a head is at work and what time it is are arguments. Times in the history have to be Unix times,
as `follow` and `run.read_history` keep them; the answers are for a person, a line each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pisa_fab.events import JobState
from pisa_fab.history import History, HostView
from pisa_fab.lock import moment
from pisa_fab.model import job_name
from pisa_fab.names import listed
from pisa_fab.progress import duration, plural
from pisa_fab.states import JobView

STALLED = 20.0  # seconds without an event after which a head that could start a job does not
CLOSED = "no slots by the cluster file now (hosts says until when)"
AGAIN = "to run it again: submit "  # and options
RETRY_FAILED = f"{AGAIN}--retry-failed"


@dataclass(frozen=True, slots=True)
class Use:
    """How a host can be used now.

    Attributes:
        host: what the history has of it.
        state: that of the history, or `resting` (it could start nothing a moment ago), `probed`, or `held`
            (somebody else needs it, or it has no memory to spare).
        slots: how many jobs it may run at once now.
        running: how many it runs, without those that wait there for a slot.
        reason: why these are not all of its slots, or "".
    """

    host: HostView
    state: str
    slots: int
    reason: str = ""
    running: int = 0


def use_of(history: History, host: HostView, now: float) -> Use:
    """Say how a host can be used now."""
    running = host.running - history.scheduler.waiting_at(host.name)
    return replace(_use_of(history, host, now), running=running)


def _use_of(history: History, host: HostView, now: float) -> Use:
    until = history.scheduler.held_until(host.name)
    held = until is not None and until > now
    if host.state == "quarantined":
        if host.name not in history.scheduler.ready_hosts:
            return Use(host, host.state, 0, host.reason)
        if held:
            assert until is not None
            return Use(host, host.state, 0, f"{host.reason}; tried again in {duration(until - now)}")
        return Use(host, "probed", min(1, host.slots), host.reason)
    if host.state != "ready":
        return Use(host, host.state, 0, host.reason)
    if held and host.refused:
        return Use(host, "resting", 0, f"can start nothing: {host.refused}")
    if host.held and not host.slots:
        return Use(host, "held", 0, host.held)
    return Use(host, host.state, host.slots, "" if host.slots else CLOSED)


def uses(history: History, now: float) -> list[Use]:
    """Say how each host can be used now, in the order of their names."""
    return [use_of(history, host, now) for _, host in sorted(history.hosts.items())]


def obstacle(history: History, now: float, ahead: int = 0) -> str:
    """Say in one line why no job can be started now if so many are started before it; "" if one can."""
    found = uses(history, now)
    if not found:
        return "no host has answered yet"
    slots, busy = sum(use.slots for use in found), history.begun
    if not slots:
        what = "no host is ready" if not history.scheduler.ready_hosts else "no host gets jobs for now"
        return f"{what}: {'; '.join(_reasons(found))}"
    usable = plural(sum(use.slots > 0 for use in found), "host")
    if busy >= slots:
        return (
            f"all {slots} slots on {usable} are busy" if slots > 1 else f"the only slot, on {usable}, is busy"
        )
    return f"{busy} of {slots} slots on {usable} are busy" if ahead >= slots - busy else ""


def _reasons(found: list[Use], most: int = 3) -> Iterator[str]:
    """Give the commonest reasons why hosts get no jobs, each with the hosts."""
    by_reason: dict[str, list[str]] = {}
    for use in found:
        by_reason.setdefault(use.reason or use.state, []).append(use.host.name)
    common = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    for reason, names in common[:most]:
        yield f"{listed(names)}: {reason}"
    if len(common) > most:
        yield f"and {plural(sum(len(names) for _, names in common[most:]), 'host')} more"


def waiting(history: History, *, head: bool, now: float) -> str:
    """Say in one line how many jobs wait, and why; "" if none does, or no head is there to run it."""
    count = history.scheduler.counts()[JobState.WAITING]
    if not count or not head:
        return ""
    wait = plural(count, "job") + (" waits" if count == 1 else " wait")
    return f"{wait}: {obstacle(history, now, count - 1) or 'to be started in a moment'}"


def why(history: History, job: int, *, head: bool, now: float) -> list[str]:
    """Say in one to three lines why a job runs, does not run yet, or runs no more; `now` is Unix time."""
    history.order.look()
    view = history.scheduler.look(job)
    if view.state in _ENDED:
        return [*_ENDED[view.state](history, job, view), *([] if view.wanted else [_left_out(history)])]
    if view.state is JobState.RUNNING:
        return list(_running(history, job, view, head=head, now=now))
    if not view.wanted:
        return [_left_out(history)]
    if not head:
        return [_no_head(history)]
    if view.unwanted:
        return [f"it was asked to be cancelled{_when_doubt_ends(history, job, now)}"]
    if view.state is JobState.IN_DOUBT and (lines := list(_in_doubt(history, job, view, now))):
        return lines
    return list(_waiting(history, view, now))


# -- jobs that have ended -----------------------------------------------------------------------------------


def _succeeded(history: History, job: int, view: JobView) -> Iterator[str]:
    result = history.results[job]
    yield (
        f"it succeeded on {result.host} at {moment(result.started + result.outcome.seconds)}, "
        f"attempt {result.attempt}"
    )
    yield f"{AGAIN}--only {job} --rerun"


def _failed(history: History, job: int, view: JobView) -> Iterator[str]:
    result = history.results[job]
    yield (
        f"it failed on {result.host} at {moment(result.started + result.outcome.seconds)}, "
        f"attempt {result.attempt}: {result.outcome.describe()}"
    )
    yield RETRY_FAILED


def _lost(history: History, job: int, view: JobView) -> Iterator[str]:
    were = "was" if len(view.lost_with) == 1 else "were"
    yield f"it was given up: {', '.join(view.lost_with)} {were} lost while running it"
    yield RETRY_FAILED


def _cancelled(history: History, job: int, view: JobView) -> Iterator[str]:
    yield "it was cancelled"
    yield RETRY_FAILED


_ENDED = {
    JobState.SUCCEEDED: _succeeded,
    JobState.FAILED: _failed,
    JobState.LOST: _lost,
    JobState.CANCELLED: _cancelled,
}


# -- jobs that have not -------------------------------------------------------------------------------------


def _left_out(history: History) -> str:
    if history.opened is not None and history.opened.left_out:
        return "the last submit was told to run some jobs only (--only), and not this one"
    return "the jobs file of the last submit has no such job any more"


def _no_head(history: History) -> str:
    """Say that nobody is at work; how the run ended is all that is known."""
    if history.closed is None:
        return f"no head is at work: it died after {moment(history.last_at)}; submit again to go on"
    how = {"interrupted": "interrupted", "no host": "ended because no usable host was left"}
    ended = how.get(history.closed.reason, "ended")
    return f"no head is at work: the run was {ended} at {moment(history.closed_at)}; submit again to go on"


def _running(history: History, job: int, view: JobView, *, head: bool, now: float) -> Iterator[str]:
    started = history.scheduler.running[job]
    since = history.started_at(job)
    when = "" if since is None else f" since {moment(since)}"
    if head:
        took = "" if since is None else f", for {duration(now - since)}"
        if job in history.paused:
            why = history.hosts[started.host].held or "no more may run there at this hour"
            yield f"it stands still on {started.host}, begun{when}, attempt {started.attempt}: {why}"
        else:
            yield f"it runs on {started.host}{when}{took}, attempt {started.attempt}"
    else:
        yield f"it was running on {started.host}{when}, attempt {started.attempt}, when its head ended"
    if (second := history.scheduler.seconds.get(job)) is not None:
        yield (
            f"second attempt ({second.attempt}) on {second.host}, because it takes longer than expected; "
            "the first success counts"
        )
    if view.unwanted:
        yield "it was asked to be cancelled and is being ended"
    if not head:
        lease = duration(history.scheduler.policy.lease)
        yield f"its worker ends it within {lease}, unless submit is given again before that and takes it up"


def _when_doubt_ends(history: History, job: int, now: float) -> str:
    doubt = history.scheduler.doubts.get(job)
    if doubt is None or doubt.until <= now:
        return " and will be in a moment"
    return f"; it may still run on {doubt.started.host}, until {moment(doubt.until)} at the latest"


def _in_doubt(history: History, job: int, view: JobView, now: float) -> Iterator[str]:
    """Say until when a job may still run where nobody hears of it; nothing if that is over."""
    doubt = history.scheduler.doubts.get(job)
    if doubt is None or doubt.until <= now:
        return
    host = doubt.started.host
    lost = history.hosts[host].reason if host in history.hosts and doubt.blamed else ""
    cause = f"was lost ({lost})" if lost else "was lost" if doubt.blamed else "has not been heard of since"
    yield f"it was running on {host}, which {cause}, and may still run there"
    after = f"from {moment(doubt.until)} on"
    if doubt.blamed and len(view.lost_with) >= max(1, history.scheduler.policy.max_losses):
        hosts = listed(view.lost_with)
        yield f"unless {host} comes back with it, it is given up {after}: lost with {hosts}"
    else:
        yield f"unless {host} comes back with it, it is run again {after}"


def _waiting(history: History, view: JobView, now: float) -> Iterator[str]:
    problem = obstacle(history, now, view.before)
    stalled = now > history.last_at + STALLED
    if problem and (not stalled or not _is_free(history, now)):
        yield f"{problem}{_queue(history, view, now)}"
    elif view.last_chance and _hosts_with_last_chances(history) >= sum(
        use.slots > 0 for use in uses(history, now)
    ):
        yield "every host that is free runs another job that must not be lost again"
    elif stalled:
        yield f"slots are free, but its head has noted nothing since {moment(history.last_at)}"
        yield "a full disk or quota stops it, and so does a home that hangs"
    else:
        yield f"a slot is free: it starts in a moment{_queue(history, view, now)}"
    if view.last_chance:
        yield (
            f"it was lost with {' and '.join(view.lost_with)} and is given up the next time, "
            "so it shares no host with another such job"
        )
    elif view.failed_on and not view.lost_with:
        attempt, most = len(view.failed_on) + 1, history.scheduler.policy.retries + 1
        yield (
            f"it failed on {view.failed_on[-1]}: try {attempt} of {most} comes after the jobs "
            "that have had none, on another host if one is free"
        )
    elif view.lost_with:
        yield f"{view.lost_with[-1]} was lost with it: it comes before the jobs that have not been tried"


def _is_free(history: History, now: float) -> bool:
    """Say whether there is a slot with nothing to run."""
    return not obstacle(history, now)


def _queue(history: History, view: JobView, now: float) -> str:
    """Say how many jobs come before it, and when it may start."""
    if not view.before:
        return "; it is next"
    rate = history.rate(now)
    when = f"; it may start in about {duration(round(view.before / rate))}" if rate else ""
    return f"; {plural(view.before, 'job')} before it{when}"


def _hosts_with_last_chances(history: History) -> int:
    """Count the hosts that run a job which is given up if it is lost once more."""
    scheduler = history.scheduler
    running = scheduler.running.items()
    return len({started.host for job, started in running if scheduler.look(job).last_chance})


def unknown(history: History, job: int) -> str:
    """Say that there is no such job, and which there are."""
    if not history.records:
        return f"there is no job {job_name(job)}: nothing was submitted yet"
    first, last = min(history.records), max(history.records)
    return f"there is no job {job_name(job)}: they are {job_name(first)} to {job_name(last)}"
