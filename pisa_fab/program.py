"""The `pisa-fab` command: the same tasks where there is no tasks.py."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.program import Program

from pisa_fab import tasks
from pisa_fab.version import __version__


def main() -> None:
    """Run the command line."""
    Program(
        name="pisa-fab",
        binary="pisa-fab",
        namespace=Collection.from_module(tasks),
        version=__version__,
    ).run()
