"""The cluster file of a run that is at work: whether it has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pisa_fab.cluster_file import ClusterFile
from pisa_fab.errors import SpecError

TEXT = "{slots: 3, hosts: [pc01]}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(TEXT)
    return path


def slots(file: ClusterFile, *, anyway: bool = False) -> int | None:
    cluster = file.news(anyway=anyway)
    return None if cluster is None else cluster.hosts[0].slots


def test_only_what_has_changed_is_news_unless_it_is_asked_for(path: Path) -> None:
    file = ClusterFile(path)
    assert slots(file) is None
    assert slots(file, anyway=True) == 3
    path.touch()
    assert slots(file) is None


def test_a_change_is_seen_that_leaves_length_and_times_as_they_were(path: Path) -> None:
    file, before = ClusterFile(path), path.stat()
    path.write_text(TEXT.replace("3", "1"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert slots(file) == 1
    assert slots(file) is None


def test_a_file_that_is_gone_or_wrong_is_said_once(path: Path) -> None:
    file = ClusterFile(path)
    for ruin in (path.unlink, lambda: path.write_text("{slots: many}")):
        ruin()
        with pytest.raises(SpecError):
            file.news(anyway=False)
        assert file.news(anyway=False) is None
    path.write_text(TEXT)
    assert slots(file) == 3
