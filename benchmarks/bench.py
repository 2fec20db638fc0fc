"""What `inv bench` runs: our speed beside the local machine and other programs, in one run, as a table.

Rounds are interleaved, so that a slow minute of the machine hits everybody. The other programs are slow and
take part in the first round only. The hosts are those of the tests: real sshd on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import alone
import cut
import foreign
import ground
import lines
import peers
import speed
from rich.console import Console
from sshd import UnavailableError
from timing import BrokenRunError


@dataclass(frozen=True)
class Row:
    """A row of the table: what measures it, and whether it needs the hosts on loopback."""

    measure: Callable[[ground.Ground], None]
    needs_hosts: bool = True


ROWS = {
    "scripts": Row(speed.scripts),
    "numpy": Row(speed.numpy),
    "sleep": Row(speed.sleep),
    "true": Row(speed.true),
    "cpu": Row(speed.cpu),
    "memory": Row(alone.memory, needs_hosts=False),
    "million": Row(alone.million, needs_hosts=False),
    "dryrun": Row(alone.dryrun),
    "makespan": Row(alone.makespan),
    "cut": Row(cut.cut, needs_hosts=False),
    "foreign": Row(foreign.foreign),
}


def machine() -> dict[str, object]:
    """Say where this is measured, and how busy it is (load average of the last minute)."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
    }


def measure(names: list[str], base: ground.Ground) -> int:
    """Measure these rows; give 1 where one could not be measured, else 0. Raises UnavailableError."""
    code = 0
    for name in names:
        row = ROWS[name]
        try:
            if row.needs_hosts:
                base.prepare()
            row.measure(base)
        except BrokenRunError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
    return code


def chosen(text: str) -> list[str]:
    """Read names of rows, separated by commas. Raises ArgumentTypeError."""
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    return names


def main() -> int:
    """Measure what the command line asks for; exit code 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=chosen, default=list(ROWS), help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    parser.add_argument("--repeat", type=int, default=3, help="how often; the medians count")
    parser.add_argument("--no-peers", action="store_true", help="leave out other programs")
    options = parser.parse_args()
    facts = machine()
    print(f"load before the start: {facts['load']} (numbers of a busy machine say little)", file=sys.stderr)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        with ground.laid(max(1, options.repeat), say, with_peers=not options.no_peers) as base:
            code = measure(options.only, base)
    except (UnavailableError, peers.NoPeerError) as error:
        print(error, file=sys.stderr)
        return 1
    pool = f"{ground.HOSTS} hosts x {ground.SLOTS} slots (cut: {cut.HOSTS} x {cut.SLOTS})"
    title = f"medians, {pool}, {facts['cores']} cores, Python {facts['python']}"
    lines.show(base.lines, title, Console(width=None if sys.stdout.isatty() else 120))
    if options.json:
        rows = [line.as_json() for line in base.lines]
        options.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
