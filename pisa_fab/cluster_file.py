"""The cluster file of a run that is at work, which a person may change meanwhile."""

from __future__ import annotations

from pathlib import Path

from pisa_fab import specs
from pisa_fab.model import Cluster


class ClusterFile:
    """A cluster file that has been read once.

    Whether it has changed is told by what is in it: opening a file is what makes a network file system show
    what another PC wrote, and its times may be counted in whole seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._look()

    def _look(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def news(self, *, anyway: bool) -> Cluster | None:
        """Give what it says, if it has changed or `anyway` is true. Raises SpecError."""
        seen = self._look()
        if seen == self._seen and not anyway:
            return None
        self._seen = seen
        return specs.load_cluster(self.path)
