"""Where a run stands, from its journal alone: for people and, with `--json`, for programs.

Works from every PC that sees the run directory, while a head writes and after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from pisa_fab import lock
from pisa_fab.events import JobState
from pisa_fab.history import History
from pisa_fab.layout import Layout
from pisa_fab.model import job_name
from pisa_fab.progress import HOPELESS, counted, duration, failures, plural, problems, was_hopeless

# How a run was closed, in the words of a person; anything else is shown as it is.
CLOSED = {
    HOPELESS: "stopped early",
    "no host": "ended because no usable host was left",
}


def describe(history: History, layout: Layout, *, only_failed: bool) -> Iterator[str]:
    """Give the lines of `status`."""
    if history.opened is None:
        yield f"{layout.root.name}: not submitted yet"
        return
    if not only_failed:
        yield f"{layout.root.name}: {counted(history)}"
        yield f"  {state_of_run(history, layout)}"
        yield from hosts(history)
    listed = list(failures(history, None) if only_failed else problems(history, 5))
    if listed:
        if only_failed or not was_hopeless(history):
            yield "failed:"
        yield from listed
    elif only_failed:
        yield "no job has failed"


def state_of_run(history: History, layout: Layout) -> str:
    """Say whether a head is at work, how fast, and for how long still."""
    if lock.is_held(layout.lock):
        now = time.time()
        rate, left = history.rate(now), history.eta(now)
        parts = [f"running on {lock.describe(lock.holder(layout.lock))}"]
        if rate:
            parts.append(f"{rate:.1f} jobs a second")
        if left is not None:
            parts.append(f"about {duration(round(left))} left")
        return ", ".join(parts)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(history.last_at))
    if history.closed is None:
        return f"its head died after {when}; submit again to go on"
    return f"{CLOSED.get(history.closed.reason, history.closed.reason)} at {when}"


def hosts(history: History) -> Iterator[str]:
    """Give a line for the hosts that work or worked, and one for each that does not."""
    known = sorted(history.hosts.values(), key=lambda host: host.name)
    ready = [host for host in known if host.state == "ready"]
    if ready:
        slots = plural(sum(host.slots for host in ready), "slot")
        yield f"  {plural(len(ready), 'host')} with {slots}: {', '.join(host.name for host in ready)}"
    for host in known:
        if host.state != "ready":
            yield f"  {host.name}: {host.state}: {host.reason}"


def as_json(history: History, layout: Layout) -> str:
    """Give the same as one JSON object."""
    now = time.time()
    running = lock.is_held(layout.lock)
    scheduler = history.scheduler
    counts = scheduler.counts()
    data: dict[str, Any] = {
        "output": str(layout.root),
        "running": running,
        "head": history.opened.head if history.opened else None,
        "pid": history.opened.pid if history.opened else None,
        "closed": history.closed.reason if history.closed else None,
        "jobs": len(scheduler.jobs),
        "counts": {state.value: counts[state] for state in JobState},
        "rate": history.rate(now) if running else None,
        "eta_seconds": history.eta(now) if running else None,
        "hosts": [
            {
                "host": host.name,
                "state": host.state,
                "slots": host.slots,
                "running": host.running,
                "done": host.done,
                "reason": host.reason,
            }
            for host in history.hosts.values()
        ],
        "failed": [
            {
                "job": job_name(result.job),
                "host": result.host,
                "attempt": result.attempt,
                "how": result.outcome.describe(),
                "exit_code": result.outcome.exit_code,
                "signal": result.outcome.signal,
                "stderr": result.outcome.tail,
            }
            for number in scheduler.jobs_in(JobState.FAILED)
            for result in [history.results[number]]
        ],
        "given_up": {
            job_name(number): list(scheduler.lost_with(number)) for number in scheduler.jobs_in(JobState.LOST)
        },
    }
    return json.dumps(data, indent=1)
