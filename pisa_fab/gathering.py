"""`fab -H a,b submit` as one run over both hosts, where Fabric calls a task once for each.

Fabric runs a task's pre- and post-tasks once, with a plain context. So the pre-task opens a list, each call
puts its Connection into that list, and the post-task does the work over all of them. The list is found again
by the configuration, which all these contexts share; one in the configuration itself would be copied.

Where no list is open (the task is called as a function by another), or the context is no Connection (`inv`,
or `fab` without hosts), the work is done at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from invoke.context import Context
from invoke.tasks import Task

Work = Callable[[Context, Sequence[Any]], None]


@dataclass
class Gathered:
    """The connections of one command, and what to do with them."""

    connections: list[Any] = field(default_factory=list)
    work: Work | None = None


# By the configuration of the contexts. Fabric makes these calls one after the other, in one thread.
_open: dict[int, Gathered] = {}


def is_connection(c: Context) -> bool:
    """Say whether a context is a Fabric Connection, without importing Fabric for that."""
    fabric = sys.modules.get("fabric")
    return fabric is not None and isinstance(c, fabric.Connection)


def begin(c: Context) -> None:
    """Open a list for the calls that follow."""
    _open[id(c.config)] = Gathered()


def add(c: Context, work: Work) -> None:
    """Do the work over this connection, or over all of the command; over none if it is no connection."""
    if not is_connection(c):
        work(c, ())
        return
    gathered = _open.get(id(c.config))
    if gathered is None:
        work(c, (c,))
        return
    gathered.connections.append(c)
    gathered.work = work


def finish(c: Context) -> None:
    """Close the list, and do the work over what is in it."""
    gathered = _open.pop(id(c.config), None)
    if gathered is not None and gathered.work is not None:
        gathered.work(c, gathered.connections)


BEGIN: Task[Any] = Task(begin, name="pisa_fab-begin")
FINISH: Task[Any] = Task(finish, name="pisa_fab-finish")
