"""Whether the first jobs of a run all fail in the same way, so that there is no point in running the others.

Pure: it reads how attempts ended and says what they have in common. To stop the run, and to show the common
traceback, is for others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pisa_fab.events import AttemptEnded, Ending, Outcome

LONGEST_LINE = 500  # characters of a line that are compared

# What differs between two failures of one kind, in the order in which it is replaced.
_VARIABLE = (
    # Text in quotes, as in b'...', `...' and typographic ones; an apostrophe within a word opens nothing.
    re.compile(r"""(?<!\w)[bBrRuU]{0,2}(?:'.*?'|".*?"|`.*?[`'])(?!\w)|\u2018.*?\u2019|\u201c.*?\u201d"""),
    re.compile(r"(?<![\w/])(?:~|\.{1,2}|\w[\w.+-]*)?/[^\s:,;()<>\[\]]*"),  # paths
    re.compile(r"\b0[xX][0-9a-fA-F]+\b"),  # addresses
    re.compile(r"(?<![\w.])(?=[a-fA-F]*[0-9])(?=[0-9]*[a-fA-F])[0-9a-fA-F]{8,}\b"),  # hashes
    re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\d+"),  # numbers
)

Signature = tuple[Ending, int | None, int | None, str]


def signature(outcome: Outcome) -> Signature:
    """Give what two failures of one kind have in common: how it ended, and the last line of its tail.

    `KeyError: 'a17'` is the same as `KeyError: 'b3'`, and `must be positive, not -3` as `..., not 7`.
    """
    lines = (line.strip() for line in reversed(outcome.tail.splitlines()))
    last = next((line for line in lines if line), "")[:LONGEST_LINE]
    for pattern in _VARIABLE:
        last = pattern.sub("#", last)
    return outcome.ending, outcome.exit_code, outcome.signal, last


@dataclass(frozen=True, slots=True)
class CommonFailure:
    """The first jobs all failed in the same way.

    Attributes:
        jobs: their numbers, in the order in which they failed.
        hosts: where they failed, each once.
        outcome: of the first; its `tail` stands for all.
    """

    jobs: tuple[int, ...]
    hosts: tuple[str, ...]
    outcome: Outcome

    def describe(self) -> str:
        """Say it in one line, without the traceback."""
        hosts = "1 host" if len(self.hosts) == 1 else f"{len(self.hosts)} hosts"
        how = f"on {hosts}: {self.outcome.describe()}"
        if len(self.jobs) == 1:
            return f"the first job failed, {how}"
        return f"the first {len(self.jobs)} jobs all failed in the same way, {how}"


class Canary:
    """Watches the first jobs of a run until one succeeds or two fail differently; from then on it rests.

    `stop_after` says how many different jobs have to fail; 0 for never. `armed` says whether there may still
    be a verdict; read only.
    """

    def __init__(self, stop_after: int) -> None:
        self._stop_after = stop_after
        self.armed = stop_after > 0
        self._first: Outcome | None = None
        self._signature: Signature | None = None
        self._jobs: dict[int, None] = {}
        self._hosts: dict[str, None] = {}

    def ended(self, event: AttemptEnded) -> None:
        """Take in the end of an attempt that counts, in order."""
        if not self.armed:
            return
        outcome = event.outcome
        if outcome.ending in (Ending.STOPPED, Ending.REFUSED):
            return
        if outcome.succeeded:
            self._disarm()
            return
        found = signature(outcome)
        if self._first is None:
            self._first, self._signature = outcome, found
        if found != self._signature:
            self._disarm()
            return
        self._jobs[event.job] = None
        self._hosts[event.host] = None

    def verdict(self, ready_hosts: int) -> CommonFailure | None:
        """Say whether enough different jobs have failed alike, on two hosts if so many are ready."""
        if self._first is None or len(self._jobs) < self._stop_after:
            return None
        if len(self._hosts) < min(2, ready_hosts):
            return None
        return CommonFailure(tuple(self._jobs), tuple(self._hosts), self._first)

    def _disarm(self) -> None:
        self.armed = False
        self._first = self._signature = None
        self._jobs.clear()
        self._hosts.clear()
