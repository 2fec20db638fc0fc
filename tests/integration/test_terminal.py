"""What a person sees on a terminal of 80 columns: a bar that says where the run stands, lines above it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from programs import Home, Project
from terminal import COLUMNS, on_a_terminal

JOBS = 6 * len(os.sched_getaffinity(0))  # some turns of every slot


@pytest.mark.parametrize("output", ["run", "a_name_that_is_longer_than_names_of_folders_are"])
def test_a_bar_says_where_the_run_stands(project: Project, home: Home, output: str) -> None:
    project.write("s.py", "import sys, time\ntime.sleep(0.4)\nsys.exit(sys.argv[2] == '1')\n")
    project.jobs({"script": "s.py", "output": output, "sweep": {"-n": {"from": 1, "to": JOBS}}})
    inv = str(Path(sys.executable).parent / "inv")
    code, lines = on_a_terminal([inv, "submit"], project.path, {**home.env, "TERM": "xterm-256color"})
    assert code == 1, lines
    bars = [line for line in lines if "━" in line]
    assert any(
        re.search(rf"━ \d+/{JOBS}, 1 failed, \d+ running, 1 host, [\d.]+/(s|min), \d+ s left", bar)
        for bar in bars
    ), bars
    assert re.search(rf"━ {JOBS}/{JOBS}, 1 failed, 1 host, [\d.]+/(s|min)$", bars[-1].rstrip())
    assert all(len(bar) <= COLUMNS for bar in bars)
    assert any(f"{JOBS - 1} succeeded, 1 failed" in line for line in lines[lines.index(bars[-1]) :])


def test_log_lines_scroll_above_the_bar(project: Project, home: Home) -> None:
    project.jobs({"command": "true", "output": "run"})
    inv = str(Path(sys.executable).parent / "inv")
    code, lines = on_a_terminal([inv, "submit", "-l"], project.path, {**home.env, "TERM": "xterm-256color"})
    assert code == 0, lines
    assert any(re.search(r"^\d\d:\d\d:\d\d 0000\.1 started on ", line) for line in lines), lines
