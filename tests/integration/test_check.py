"""`check` on real hosts: what it finds, what it says of hosts that cannot work, what it leaves behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from passwords import PASSWORD, PasswordHost
from processes import wait_for
from programs import Completed, Home, Program, Project
from sshd import Hosts, UnavailableError, make_key
from terminal import COLUMNS, Terminal, on_a_terminal

Run = Callable[..., Completed]
Start = Callable[..., Program]

WHO = """#!/bin/sh
echo 'anna     pts/0        2026-11-22 10:00 (10.0.0.1)'
echo 'bo       tty2         2026-11-22 10:00 (tty2)'
"""
QUOTA = """#!/bin/sh
[ "$*" = "-w -p" ] && echo "  $(findmnt -n -o SOURCE --target "$PWD") 2097152 0 20971520 0 9 0 0 0"
"""

# What `check --install-key` does when it has been told a password.
INSTALL = """
import json, sys
from pathlib import Path
from pisa_fab import authorize, check, specs
from pisa_fab.pool import Access
cluster = specs.load_cluster(Path("cluster.yaml"))
def told(line): print(line, file=sys.stderr)
def verdicts(): return [report.verdict for report in check.run(cluster, Access(), None, told=told)]
before = check.run(cluster, Access(), None, told=told)
key = Path(sys.argv[2])
put = authorize.install_key(cluster, Access(password=sys.argv[1]), key, before, told)
print(json.dumps([[report.verdict for report in before], put, verdicts()]))
"""


@pytest.fixture
def simple(project: Project) -> Project:
    project.write("script.py", "print(1)\n")
    project.jobs({"script": "script.py", "output": "run"})
    return project


def answer(done: Completed) -> dict[str, dict[str, object]]:
    """Give what JSON says of each host."""
    assert done.stdout.startswith("{"), done.said
    return {host["host"]: host for host in json.loads(done.stdout)["hosts"]}


def program_on(hosts: Hosts, number: int, name: str, script: str) -> None:
    """Put a program into a host's own folder of programs."""
    path = hosts.hosts[number].folder / "bin" / name
    path.write_text(script)
    path.chmod(0o755)


def left_behind(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".pisa_fab-*"))


# -- hosts that can work ------------------------------------------------------------------------------------


def test_hosts_that_can_work_are_described(simple: Project, hosts: Hosts, run_program: Run) -> None:
    venv = simple.path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    simple.jobs({"venv": "venv", "script": "script.py", "output": "run"})
    simple.pool(hosts.start(2) + hosts.start(1, greeting="Welcome!\nNo games."), slots=3)
    program_on(hosts, 0, "who", WHO)
    program_on(hosts, 0, "quota", QUOTA)
    done = run_program("inv", "check", "--json")
    assert done.returncode == 0, done.said
    data = json.loads(done.stdout)
    assert (data["can_work"], data["slots"], data["problems"]) == (3, 9, [])
    assert [host["host"] for host in data["hosts"]] == ["pc01", "pc02", "pc03"]
    version = ".".join(map(str, sys.version_info[:3]))
    for host in data["hosts"]:
        assert (host["verdict"], host["reason"], host["can_work"]) == ("ok", "", True)
        assert (host["python"], host["head_python"], host["sees"]) == (version, version, True)
        assert (host["key"], host["slots"]) == ("ssh-ed25519", 3)
        assert host["connect_ms"] > 0
        assert 0 < host["free"] <= host["size"]
        assert host["cores"] >= 1
        assert host["load"] >= 0
        assert abs(host["clock_offset"]) < 1  # it is the same clock
    assert data["hosts"][0]["people"] == ["anna", "bo"]
    assert (data["hosts"][0]["quota_used"], data["hosts"][0]["quota_limit"]) == (2 << 30, 20 << 30)
    assert data["hosts"][1]["quota_limit"] is None
    assert left_behind(simple.path) == []
    done = run_program("inv", "check")
    assert done.returncode == 0, done.said
    table = done.stdout.splitlines()
    assert table[0].split()[:3] == ["host", "verdict", "ms"]
    assert [line.split()[:2] for line in table[1:4]] == [["pc01", "ok"], ["pc02", "ok"], ["pc03", "ok"]]
    assert table[1].endswith("2: anna,bo")
    assert table[-1] == "3 of 3 hosts can work; 9 slots"


def test_the_run_directory_is_looked_at_where_there_is_one_and_is_left_as_it_was(
    simple: Project, hosts: Hosts, run_program: Run
) -> None:
    simple.pool(hosts.start(1))
    assert run_program("inv", "submit").returncode == 0
    files = sorted((simple.path / "run").rglob("*"))
    old = simple.path / "run" / ".pisa_fab-check-0123"  # of a `check` that was killed
    subprocess.run(["touch", "-d", "yesterday", old], check=True)
    done = run_program("inv", "check")
    assert done.returncode == 0, done.said
    assert sorted((simple.path / "run").rglob("*")) == files


def test_without_files_this_machine_and_this_folder_are_looked_at(project: Project, run_program: Run) -> None:
    done = run_program("inv", "check")
    assert done.returncode == 0, done.said
    assert "1 of 1 host can work" in done.stdout
    assert left_behind(project.path) == []


def test_ctrl_c_leaves_nothing_behind(simple: Project, hosts: Hosts, start_program: Start) -> None:
    simple.pool(hosts.start(1) + hosts.start(1, settings=["ForceCommand cat >/dev/null"]))
    program = start_program("inv", "check")
    wait_for(lambda: left_behind(simple.path), "the first file")
    program.wait_for_output("waiting for pc02")
    program.interrupt()
    assert program.wait().returncode != 0
    wait_for(lambda: not left_behind(simple.path), "the files to be removed")


# -- hosts that cannot --------------------------------------------------------------------------------------


def test_hosts_that_cannot_work_are_named_with_reason_and_remedy_and_none_holds_up_the_others(
    simple: Project, hosts: Hosts, run_program: Run
) -> None:
    hosts.start(1)
    hosts.start(1)[0].stop()
    hosts.start(2, refuse_key=True)
    hosts.start(1, unknown_key=True)
    hosts.start(1, wrong_key=True)
    hosts.start(1, python=False)
    hosts.start(1, settings=["ForceCommand cat >/dev/null"])  # a login shell whose home hangs
    hosts.start(1)[0].freeze()
    names = [host.name for host in hosts.hosts]
    simple.cluster({"slots": 2, "hosts": [*names, "no-such-host.invalid"]})
    done = run_program("inv", "check")
    assert done.returncode == 1, done.said
    rows = [re.split(r"\s{2,}", line)[:2] for line in done.stdout.splitlines()[1:11]]
    assert rows == [
        ["pc01", "ok"],
        ["pc02", "SSH off"],
        ["pc03", "key refused"],
        ["pc04", "key refused"],
        ["pc05", "new host key"],
        ["pc06", "key CHANGED"],
        ["pc07", "no Python"],
        ["pc08", "hangs"],
        ["pc09", "SSH hangs"],
        ["no-such-host.invalid", "no such name"],
    ]
    for said in (
        "pc03, pc04: refuses the key of user ",
        "  tip: inv check --install-key, or: ssh-copy-id pc03",
        "pc05: its host key is not known here",
        "  tip: inv check --accept-new",
        "pc08: no answer within 20 s while starting python3",
        "1 of 10 hosts can work; 2 slots",
    ):
        assert said in done.stdout, done.said
    assert "waiting for pc08, pc09" in done.stderr
    assert "Traceback" not in done.said
    assert left_behind(simple.path) == []


def test_no_host_that_can_work_is_exit_code_3(simple: Project, hosts: Hosts, run_program: Run) -> None:
    simple.pool(hosts.start(1, refuse_key=True))
    assert run_program("inv", "check").returncode == 3


@pytest.mark.root
def test_a_host_with_another_home_is_found_out(simple: Project, hosts: Hosts, run_program: Run) -> None:
    (simple.path / "run").mkdir()
    simple.pool(hosts.start(1, hide=[simple.path / "run"]) + hosts.start(1))
    done = run_program("inv", "check")
    assert done.returncode == 1, done.said
    assert re.search(r"^pc01 +not shared", done.stdout, re.MULTILINE), done.said
    assert f"pc01: does not see the run directory {simple.path}/run" in done.stdout
    assert re.search(r"^pc02 +ok", done.stdout, re.MULTILINE), done.said


@pytest.mark.root
def test_a_folder_that_is_not_there_is_found_out(simple: Project, hosts: Hosts, run_program: Run) -> None:
    simple.pool(hosts.start(1, hide=[simple.path.parent / "project"]) + hosts.start(1))
    simple.write("inner/script.py", "")
    simple.jobs({"workdir": "inner", "script": "script.py", "output": "run"})
    host = answer(run_program("inv", "check", "--json"))["pc01"]
    assert (host["verdict"], host["sees"]) == ("no folder", None)
    assert host["reason"] == f"no such folder here: {simple.path}/inner (No such file or directory)"


@pytest.mark.root
def test_a_venv_that_is_no_good_is_found_out(simple: Project, hosts: Hosts, run_program: Run) -> None:
    python = simple.path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (simple.path / "python").mkdir()
    (simple.path / "python" / "python3").symlink_to(sys.executable)
    python.symlink_to(simple.path / "python" / "python3")
    simple.jobs({"venv": "venv", "script": "script.py", "output": "run"})
    hosts.start(1, hide=[simple.path / "venv"])
    hosts.start(1, hide=[simple.path / "python"])
    simple.pool(hosts.hosts)
    found = answer(run_program("inv", "check", "--json"))
    assert [host["verdict"] for host in found.values()] == ["no venv", "no venv"]
    assert found["pc01"]["reason"] == f"no such venv here: {simple.path}/venv"
    assert str(found["pc02"]["reason"]).endswith(f"(its Python, {simple.path}/python/python3, is missing)")
    python.unlink()
    python.write_text("#!/bin/sh\necho oh dear >&2\nexit 3\n")
    python.chmod(0o755)
    reason = answer(run_program("inv", "check", "--json"))["pc02"]["reason"]
    assert reason == "the venv's Python does not start (oh dear)"


# -- keys ---------------------------------------------------------------------------------------------------


def test_new_host_keys_are_accepted_when_asked_for(simple: Project, hosts: Hosts, run_program: Run) -> None:
    simple.pool(hosts.start(1) + hosts.start(6, unknown_key=True))
    assert run_program("inv", "check").returncode == 1
    accepting = run_program("inv", "check", "--accept-new")
    assert accepting.returncode == 0, accepting.said
    for number in range(2, 8):
        assert re.search(rf"pc0{number}: its host key is accepted and saved: \S+ SHA256:", accepting.stderr)
    assert "pc01: its host key" not in accepting.stderr
    again = run_program("inv", "check")
    assert again.returncode == 0, again.said
    known = (hosts.home / ".ssh" / "known_hosts").read_text()
    assert len(known.splitlines()) == 7


@pytest.fixture
def doors(home: Home, tmp_path: Path, project: Project) -> Iterator[list[PasswordHost]]:
    """Three hosts that want a password: two with one home, the third with its own."""
    hosts: list[PasswordHost] = []
    try:
        for number, folder in enumerate(("shared", "shared", "own"), start=1):
            name = f"pc{number:02d}"
            (tmp_path / name).mkdir()
            hosts.append(PasswordHost(name, tmp_path / name, tmp_path / folder))
        folder = home.path / ".ssh"
        make_key(folder / "id_ed25519")
        (folder / "config").write_text("".join(host.client_config for host in hosts))
        (folder / "known_hosts").write_text("".join(host.known_hosts for host in hosts))
        project.pool(hosts)
        yield hosts
    except UnavailableError as error:
        pytest.skip(str(error))
    finally:
        for host in hosts:
            host.stop()


def install(run_program: Run, home: Home, password: str) -> tuple[list[object], str]:
    """Install the key; give verdicts before, where it was put, verdicts after; and what was told."""
    key = home.path / ".ssh" / "id_ed25519.pub"
    done = run_program(sys.executable, "-c", INSTALL, password, key)
    assert done.returncode == 0, done.said
    return json.loads(done.stdout), done.stderr


@pytest.mark.root
def test_a_key_is_put_where_a_password_works_and_once_where_the_home_is_shared(
    doors: list[PasswordHost], home: Home, run_program: Run
) -> None:
    other = "ssh-ed25519 AAAAother somebody"
    doors[0].authorized.parent.mkdir(mode=0o755)
    doors[0].authorized.write_text(other)
    before, put, after = install(run_program, home, PASSWORD)[0]
    assert before == ["key refused"] * 3
    assert put == ["pc01", "pc03"]
    assert after == ["ok"] * 3
    key = (home.path / ".ssh" / "id_ed25519.pub").read_text().strip()
    assert doors[0].authorized.read_text() == f"{other}\n{key}\n"
    assert doors[2].authorized.read_text() == f"{key}\n"
    for door in (doors[0], doors[2]):
        assert door.authorized.stat().st_mode & 0o777 == 0o600
        assert door.authorized.parent.stat().st_mode & 0o777 == 0o700
    assert [door.accepted("password") for door in doors] == [1, 0, 1]  # pc02 had the key by then
    assert install(run_program, home, PASSWORD)[0] == [["ok"] * 3, [], ["ok"] * 3]
    assert doors[0].authorized.read_text() == f"{other}\n{key}\n"


@pytest.mark.root
def test_a_wrong_password_is_told_and_changes_nothing(
    doors: list[PasswordHost], home: Home, run_program: Run
) -> None:
    (_, put, after), told = install(run_program, home, "abracadabra")
    assert (put, after) == ([], ["key refused"] * 3)
    assert "pc01: refuses the password, too" in told
    assert not any(door.authorized.exists() for door in doors)


@pytest.mark.root
def test_the_password_is_asked_for_on_the_terminal(
    doors: list[PasswordHost], home: Home, project: Project
) -> None:
    inv = str(Path(sys.executable).parent / "inv")
    with Terminal([inv, "check", "--install-key"], project.path, home.env) as screen:
        screen.answer("^password for the hosts that refuse your key:", PASSWORD)
        assert screen.wait() == 0, screen.lines
    assert "3 of 3 hosts can work; 6 slots" in screen.lines
    assert PASSWORD.encode() not in screen.drawn


# -- how it looks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [5, 34])
def test_the_table_fits_a_terminal(simple: Project, hosts: Hosts, home: Home, number: int) -> None:
    hosts.start(number)
    refused = hosts.hosts[number // 2 :: 2]
    for host in refused:
        (host.folder / "authorized_keys").write_text("")
    simple.pool(hosts.hosts, slots=3)
    inv = str(Path(sys.executable).parent / "inv")
    code, lines = on_a_terminal([inv, "check"], simple.path, {**home.env, "TERM": "xterm-256color"})
    assert code == 1, lines
    first = next(place for place, line in enumerate(lines) if line.startswith("host"))
    header, *rows = lines[first : first + number + 1]
    assert header.split()[:2] == ["host", "verdict"]
    assert [row.split()[0] for row in rows] == [host.name for host in hosts.hosts]
    assert sum(" ok " in row for row in rows) == number - len(refused)
    assert all(len(line) <= COLUMNS for line in lines), lines
    able = number - len(refused)
    assert lines[-1] == f"{able} of {number} hosts can work; {3 * able} slots"
