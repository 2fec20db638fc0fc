"""The `pisa-fab` command: the same tasks where there is no tasks.py."""

from __future__ import annotations

from pathlib import Path

from invoke.collection import Collection
from invoke.program import Program

from pisa_fab import tasks
from pisa_fab.version import __version__


class PisaFab(Program):
    """Invoke's program with our tasks; it reads the invoke.yaml of the current folder, as `inv` does."""

    def update_config(self, merge: bool = True) -> None:
        """Load the configuration that belongs to the current folder, then that of the command line."""
        self.config.set_project_location(Path.cwd())
        self.config.load_project(merge=False)
        super().update_config(merge)


def main() -> None:
    """Run the command line."""
    PisaFab(
        name="pisa-fab",
        binary="pisa-fab",
        binary_names=["pisa-fab"],
        namespace=Collection.from_module(tasks),
        version=__version__,
    ).run()
