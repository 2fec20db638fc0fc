"""What the worker has in place of big libraries does as they do, whatever the Python at hand has in C."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pisa_fab import light
from pisa_fab.link import bootstrap, worker_parts

# Each costs every host some milliseconds at every start.
BIG = {"collections", "ctypes", "enum", "functools", "json", "pathlib", "platform", "re", "shutil", "signal"}
BIG |= {"socket", "subprocess", "tempfile", "threading", "typing"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.fixture(params=["with the modules in C", "without them"])
def lean(request: pytest.FixtureRequest) -> Iterator[object]:
    """The module as it is, and as it is where Python has nothing below its libraries."""
    if request.param == "with the modules in C":
        yield light
        return
    hidden = {name: sys.modules.get(name) for name in ("_ctypes", "_json", "_signal")}
    try:
        sys.modules.update(dict.fromkeys(hidden))
        yield importlib.reload(light)
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        importlib.reload(light)


@given(VALUES)
def test_what_is_written_is_json_in_one_line_and_is_read_again(value: object) -> None:
    line = light.dumps(value)
    assert b"\n" not in line and line.isascii()
    assert json.loads(line) == value
    assert light.loads(line) == value
    assert light.loads(json.dumps(value, indent=1).encode()) == value


@given(st.text(max_size=20))
@example("0\x85")  # a blank to str.strip
def test_what_is_no_json_is_refused_as_json_does_it(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    try:
        expected = repr(json.loads(data.decode("utf-8").strip(" \t\r\n")))
    except ValueError:
        with pytest.raises(ValueError):
            light.loads(data)
    else:
        assert repr(light.loads(data)) == expected


def test_any_python_reads_and_writes_the_same(lean: object) -> None:
    value = {"op": "run", "argv": ["a b", "\u00e4\ud800", '"'], "timeout": None, "at": 1.5, "ok": [True, -1]}
    assert light.loads(light.dumps(value)) == value
    with pytest.raises(TypeError):
        light.dumps({"op": object()})
    with pytest.raises(ValueError):
        light.loads(b"{} {}")


def test_any_python_calls_the_library_of_c(lean: object) -> None:
    assert light.call_libc("getpid") == os.getpid()
    assert light.call_libc("strlen", b"seven to") == 8
    with pytest.raises(AttributeError):
        light.call_libc("no_such_function_at_all")
    room = ctypes.create_string_buffer(b"before")
    light.move_text(ctypes.addressof(room), b"af")
    assert room.value == b"affore"


def test_a_program_is_found_where_a_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("folder", "text", "here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "tool").mkdir()
    (tmp_path / "text" / "tool").write_text("not to be executed")
    for name in ("here", "there"):
        (tmp_path / name / "tool").write_text("#!/bin/sh\n")
        (tmp_path / name / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path / "there")
    folders = [str(tmp_path / name) for name in ("missing", "folder", "text", "here", "there")]
    for search in (":".join(folders), ":".join(folders[:3]), ":" + folders[3], ""):
        assert light.find_program("tool", search) == shutil.which("tool", path=search or ":")
    assert light.find_program("tool", ":".join(folders)) == str(tmp_path / "here" / "tool")


def test_a_worker_imports_no_big_library_at_its_start() -> None:
    unpacker, parcel = worker_parts()
    told = (
        "import atexit, sys\n"
        "before = set(sys.modules)\n"
        "import os\n"
        "os._exit = lambda code: print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
    ).encode("ascii")
    command = bootstrap(sys.executable, len(told) + len(unpacker), "token")
    done = subprocess.run(
        ["sh", "-c", command], input=told + unpacker + parcel, capture_output=True, check=False
    )
    # Its input ends before a set-up, so that it leaves at once.
    assert done.stdout == b"pisa_fab worker token\n"
    loaded = set(done.stderr.decode().split())
    assert "pisa_fab.light" in loaded
    assert not loaded & BIG
