"""What several tests of the worker need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from talk import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host on which workers follow one another; at the end nothing of them may be left."""
    with tempfile.TemporaryDirectory(prefix="pisa_fab-test-", dir="/tmp") as folder:
        found = Host(tmp_path, Path(folder) / "place")
        yield found
        found.close()
