"""What `preload: true` takes from a script, and what is told to a person once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pisa_fab.imports import imports_of
from pisa_fab.messages import Notices

SCRIPT = '''\
"""A script."""
from __future__ import annotations
import os, sys
HERE = os.path.dirname(__file__)
import numpy as np
from scipy import stats as st, optimize
from .beside import x
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
try:
    import fast
    import faster
except ImportError:
    import slow
if TYPE_CHECKING:
    import typing
def f():
    import late
    os.environ["A"] = "b"
    return np.random.rand(), np.linalg.norm, sys.argv
'''


def taken(source: str, folder: Path) -> list[list[object]]:
    path = folder / "script.py"
    path.write_text(source)
    return [group for group in imports_of(str(path)) if group]


def test_the_imports_at_the_top_are_taken_in_their_order(tmp_path: Path) -> None:
    groups = taken(SCRIPT, tmp_path)
    assert groups[:6] == [
        [("os", ()), ("sys", ())],
        [("numpy", ())],
        [("scipy", ("stats", "optimize"))],
        [("matplotlib", ())],
        [("matplotlib.pyplot", ())],
        [("fast", ()), ("faster", ())],
    ]
    named = {(name, names) for ((name, names),) in groups[6:]}
    assert {("numpy", ("random",)), ("numpy", ("linalg",))} <= named
    assert {name for name, _ in named} <= {"os", "sys", "numpy", "matplotlib", "matplotlib.pyplot"}


@pytest.mark.parametrize(
    "line",
    [
        "import os; os.environ['OMP_NUM_THREADS'] = '1'",
        "from os import environ; environ.setdefault('A', 'b')",
        "import sys\nsys.path.insert(0, 'lib')",
        "import os\nif True:\n    os.chdir('/')",
        "import os\nos.putenv('A', 'b')",
    ],
)
def test_what_follows_a_change_of_the_surroundings_is_left_to_the_script(tmp_path: Path, line: str) -> None:
    modules = {
        step[0]
        for group in taken(f"import json\n{line}\nimport numpy\nnumpy.random\n", tmp_path)
        for step in group
    }  # type: ignore[index]
    assert "json" in modules
    assert "numpy" not in modules


@pytest.mark.parametrize("source", ["def f(:\n", "\0", "# coding: none\n", "", "x = 1\n"])
def test_a_script_that_cannot_be_read_has_no_imports(tmp_path: Path, source: str) -> None:
    assert taken(source, tmp_path) == []
    assert imports_of(str(tmp_path / "nowhere.py")) == []


def test_what_holds_for_all_hosts_is_told_by_the_first_one_alone() -> None:
    said: list[str] = []
    notices = Notices(said.append)
    for host in ("pc01", "pc02"):
        notices.pass_on(host, {"op": "notice", "text": "the same", "once": True})
        notices.pass_on(host, {"op": "notice", "text": "my own"})
    assert said == ["pc01: the same", "pc01: my own", "pc02: my own"]
