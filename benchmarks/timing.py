"""Running a command and saying what it took; knows nothing of what is measured."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


class BrokenRunError(Exception):
    """A command that was to be measured did not do what it should."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took, in seconds: by the wall clock, and of processors (its children included)."""

    wall: float
    processor: float


@dataclass(slots=True)
class Series:
    """The same thing measured several times; `value` is the median, which one busy moment cannot move."""

    values: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)


def measure(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    given: Sequence[str] = (),
) -> Cost:
    """Run a command with some lines as its input. Raises BrokenRunError unless it ends with 0."""
    log = folder / "last.log"
    source = folder / "last.in"
    source.write_text("".join(f"{line}\n" for line in given))
    with log.open("wb") as output, source.open("rb") as text:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(env), stdin=text, stdout=output, stderr=output
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C: measured or not, it must not stay behind
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = log.read_text("utf-8", "replace").strip().splitlines()[-5:]
        raise BrokenRunError("\n  ".join([f"{command[0]} ended with {process.returncode}", *said]))
    return Cost(wall, usage.ru_utime + usage.ru_stime)
