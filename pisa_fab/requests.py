"""What other processes ask of the head, through the run directory, which every PC of the pool sees.

A request is a small file. The head looks for them about once a second, does what they ask, and removes them
when that is safe in the journal, which is the answer. What is there before a head holds the run directory was
asked of an earlier one. Only the user can put files there.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pisa_fab.layout import Layout
from pisa_fab.table import replacing


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody, `by` whom, wants these jobs to be cancelled; None is the whole run."""

    jobs: tuple[int, ...] | None
    by: str


def put(layout: Layout, request: Request) -> Path:
    """Put a request where the head finds it; the file is there until it has been done. Raises OSError."""
    layout.requests.mkdir(mode=0o700, exist_ok=True)
    path = layout.request(secrets.token_hex(8))
    with replacing(path) as file:
        file.write(json.dumps({"cancel": request.jobs, "by": request.by}))
    return path


def pending(layout: Layout) -> Iterator[tuple[Path, Request | None]]:
    """Give the requests that are there, None for one that cannot be understood."""
    try:
        paths = sorted(layout.pending_requests())
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(OSError):
            yield path, parse(path.read_text("utf-8", "replace"))


def parse(text: str) -> Request | None:
    """Read a request; None where the text is none."""
    try:
        data = json.loads(text)
        jobs = data["cancel"]
        return Request(None if jobs is None else tuple(int(job) for job in jobs), str(data["by"]))
    except (ValueError, TypeError, KeyError):
        return None


def remove(path: Path) -> bool:
    """Remove a request that was done, or is wanted no more; say whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def is_answered(path: Path) -> bool:
    """Say whether the head has removed a request; some file systems show that late. Raises OSError."""
    # Listing a folder makes an NFS client ask its server; looking at the file alone may not.
    return path not in path.parent.iterdir()


def withdraw(path: Path) -> bool:
    """Take a request back; False if the head has removed it, whatever is shown here. Raises OSError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


class Requests:
    """What is asked of this head; what it has done stays known, for it may not be possible to remove it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._done: set[Path] = set()  # they are there until the journal is safe

    def new(self) -> Iterator[tuple[Path, Request | None]]:
        """Give what was not given before."""
        for path, request in pending(self.layout):
            if path not in self._done:
                self._done.add(path)
                yield path, request

    def answer(self) -> None:
        """Remove what was given, now that it is safe."""
        self._done = {path for path in self._done if not remove(path)}
