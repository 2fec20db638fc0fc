"""What a person is asked for on a terminal, by real programs: passphrases, passwords, the words of `init`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from passwords import PASSWORD, PasswordHost
from processes import PROC, wait_for
from programs import Completed, Home, Program, Project
from sshd import Hosts, UnavailableError
from terminal import COLUMNS, CTRL_C, CTRL_D, Terminal

Run = Callable[..., Completed]
Start = Callable[..., Program]
Screens = Callable[..., Terminal]

SECRET = "correct horse 4711"
ASKED = r"passphrase of your key ~/\.ssh/id_ed25519:$"
JOBS = 6
# Ends when the test lets it.
SCRIPT = """
import os, time
print(os.environ["PISA_HOST"], flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
"""


@pytest.fixture
def on_screen(project: Project, home: Home) -> Iterator[Screens]:
    """Starts programs on terminals: `on_screen("inv", "submit")`."""
    started: list[Terminal] = []

    def start(program: str, *args: str, **env: str) -> Terminal:
        command = [str(Path(sys.executable).parent / program), *args]
        started.append(Terminal(command, project.path, {**home.env, **env}))
        return started[-1]

    yield start
    for screen in started:
        screen.close()


@pytest.fixture
def batch(project: Project) -> Project:
    project.write("fabfile.py", "from pisa_fab.tasks import *  # noqa: F403\n")
    project.write("script.py", SCRIPT)
    project.write("go", "")
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": {"from": 1, "to": JOBS}}})
    return project


@pytest.fixture
def locked(hosts: Hosts, batch: Project) -> Hosts:
    """Three hosts that take one key, which is encrypted and in no agent."""
    batch.pool(hosts.start(3))
    command = ["ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", SECRET, "-f", str(hosts.identity)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return hosts


def asked(screen: Terminal) -> list[str]:
    return [line for line in screen.lines if "passphrase" in line.lower()]


def used(project: Project) -> set[str]:
    return {path.read_text().strip() for path in project.path.glob("run/stdout/*.out")}


def begun(project: Project) -> list[Path]:
    attempts = project.path.glob("run/.pisa/attempts/*.out")
    return [path for path in attempts if path.stat().st_size > 0]


def processes_that_know(secret: str) -> list[str]:
    """Give the command lines of processes that have a text in their command line or environment."""
    found = []
    for entry in PROC.iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:  # no process, or it has ended meanwhile
            continue
        if secret.encode() in command + environment:
            found.append(command.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# -- encrypted keys -----------------------------------------------------------------------------------------


def test_one_passphrase_is_asked_for_once_and_is_kept_nowhere(
    locked: Hosts, batch: Project, on_screen: Screens, tmp_path: Path
) -> None:
    (batch.path / "go").unlink()
    screen = on_screen("inv", "submit", "-l")
    screen.answer(ASKED, SECRET)
    screen.wait_for_line(r"0005\.1 started on ")
    assert processes_that_know(SECRET) == []
    batch.write("go", "")
    assert screen.wait() == 0, screen.lines
    assert len(asked(screen)) == 1, screen.lines
    assert used(batch) == {"pc01", "pc02", "pc03"}
    assert SECRET.encode() not in screen.drawn
    assert files_with(SECRET, tmp_path) == []


def test_a_wrong_passphrase_is_asked_for_again(locked: Hosts, batch: Project, on_screen: Screens) -> None:
    screen = on_screen("inv", "submit")
    seen = screen.answer(f"^{ASKED}", "wrong")
    screen.answer(f"^wrong, once more: {ASKED}", SECRET, seen)
    assert screen.wait() == 0, screen.lines
    assert len(asked(screen)) == 2, screen.lines


def test_three_wrong_passphrases_end_it_before_anything_is_done(
    locked: Hosts, batch: Project, on_screen: Screens
) -> None:
    screen = on_screen("inv", "submit")
    seen = screen.answer(ASKED, "wrong")
    seen = screen.answer(ASKED, "also wrong", seen)
    screen.answer(ASKED, "still wrong", seen)
    assert screen.wait() == 2, screen.lines
    assert screen.lines[3:] == [
        "no passphrase of 3 fits ~/.ssh/id_ed25519",
        "  tip: load it into an agent, which keeps it: ssh-add ~/.ssh/id_ed25519",
    ]
    assert not (batch.path / "run").exists()
    assert [host.logins() for host in locked.hosts] == [0, 0, 0]


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [
        pytest.param(CTRL_C, 130, [], id="ctrl-c"),
        pytest.param(CTRL_D, 3, ["run: 6 of 6 jobs to run, 6 slots on 3 hosts"], id="ctrl-d"),
        pytest.param("\n", 3, ["run: 6 of 6 jobs to run, 6 slots on 3 hosts"], id="no passphrase"),
    ],
)
def test_who_does_not_answer_is_not_asked_again(
    locked: Hosts, on_screen: Screens, key: str, code: int, said: list[str]
) -> None:
    screen = on_screen("inv", "submit")
    screen.wait_for_line(ASKED)
    screen.type(key)
    assert screen.wait() == code, screen.lines
    assert "Traceback" not in "".join(screen.lines)
    assert len(asked(screen)) == 1, screen.lines
    assert screen.lines[1:2] == said
    assert [host.logins() for host in locked.hosts] == [0, 0, 0]


def test_where_nobody_can_be_asked_each_host_says_what_helps(locked: Hosts, run_program: Run) -> None:
    done = run_program("inv", "submit")
    assert done.returncode == 3, done.said
    for host in locked.hosts:
        said = "cannot be used: your private key is encrypted; load it into an agent with: ssh-add"
        assert f"{host.name}: {said}\n" in done.said


def test_it_asks_before_it_goes_to_the_background(
    locked: Hosts, batch: Project, on_screen: Screens, run_program: Run, tmp_path: Path
) -> None:
    (batch.path / "go").unlink()
    screen = on_screen("inv", "submit", "--detach")
    screen.answer(ASKED, SECRET)
    assert screen.wait() == 0, screen.lines  # and nobody has the terminal open any more
    assert len(asked(screen)) == 1, screen.lines
    wait_for(lambda: len(begun(batch)) == JOBS, "all jobs to begin")
    assert processes_that_know(SECRET) == []
    batch.write("go", "")
    watched = run_program("inv", "status", "--watch")
    assert watched.returncode == 0, watched.said
    assert "6 succeeded" in watched.stdout
    assert files_with(SECRET, tmp_path) == []


def test_what_fab_has_asked_for_is_not_asked_for_again(
    locked: Hosts, batch: Project, on_screen: Screens, tmp_path: Path
) -> None:
    screen = on_screen("fab", "-H", "pc01,pc02", "--prompt-for-passphrase", "submit")
    screen.answer("Enter passphrase for use unlocking SSH keys:", SECRET)
    assert screen.wait() == 0, screen.lines
    assert len(asked(screen)) == 1, screen.lines
    assert used(batch) == {"pc01", "pc02"}
    assert files_with(SECRET, tmp_path) == []


# -- passwords ----------------------------------------------------------------------------------------------


@pytest.fixture
def doors(home: Home, tmp_path: Path, batch: Project) -> Iterator[list[PasswordHost]]:
    """Two hosts that take nothing but a password."""
    hosts: list[PasswordHost] = []
    try:
        for name in ("pc01", "pc02"):
            (tmp_path / name).mkdir()
            hosts.append(PasswordHost(name, tmp_path / name, tmp_path / name / "home"))
        folder = home.path / ".ssh"
        folder.mkdir()
        (folder / "config").write_text("".join(host.client_config for host in hosts))
        (folder / "known_hosts").write_text("".join(host.known_hosts for host in hosts))
        yield hosts
    except UnavailableError as error:
        pytest.skip(str(error))
    finally:
        for host in hosts:
            host.stop()


@pytest.mark.root
def test_the_password_that_fab_asks_for_lets_us_in(
    doors: list[PasswordHost], batch: Project, on_screen: Screens, tmp_path: Path
) -> None:
    screen = on_screen("fab", "-H", "pc01,pc02", "--prompt-for-login-password", "submit")
    screen.answer("Enter login password for use with SSH auth:", PASSWORD)
    assert screen.wait() == 0, screen.lines
    assert used(batch) == {"pc01", "pc02"}
    assert [door.accepted("password") for door in doors] == [1, 1]
    assert files_with(PASSWORD, tmp_path) == []


@pytest.mark.root
def test_a_wrong_password_is_said_of_each_host(
    doors: list[PasswordHost], batch: Project, on_screen: Screens
) -> None:
    screen = on_screen("fab", "-H", "pc01,pc02", "--prompt-for-login-password", "submit")
    screen.answer("Enter login password", "abracadabra")
    assert screen.wait() == 3, screen.lines
    for door in doors:
        assert f"{door.name}: cannot be used: refuses the key and the password of user anna" in screen.lines
        assert (door.accepted("password"), door.refused()) == (0, 1)


@pytest.fixture
def refusing(hosts: Hosts, batch: Project) -> Hosts:
    """A host that does not take the user's key."""
    batch.pool(hosts.start(1, refuse_key=True))
    return hosts


@pytest.mark.usefixtures("refusing")
def test_who_gives_no_password_for_hosts_gets_no_key_installed(on_screen: Screens) -> None:
    screen = on_screen("inv", "check", "--install-key")
    screen.wait_for_line("^password for the hosts that refuse your key:$")
    screen.type(CTRL_D)
    assert screen.wait() == 3, screen.lines
    assert screen.lines[1] == "no password; no key was put anywhere", screen.lines


@pytest.mark.usefixtures("refusing")
def test_where_nobody_can_be_asked_for_a_password_it_is_said(run_program: Run) -> None:
    done = run_program("inv", "check", "--install-key")
    assert done.returncode == 2, done.said
    assert done.stderr.splitlines() == [
        "--install-key asks for a password, which takes a terminal",
        "  tip: by hand it is: ssh-copy-id HOST",
    ]


# -- first files --------------------------------------------------------------------------------------------


INIT_SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("-n", type=int, required=True)
print(parser.parse_args().n)
"""


def test_init_asks_for_what_it_cannot_know_and_what_it_writes_runs(
    project: Project, on_screen: Screens, run_program: Run
) -> None:
    (project.path / "tasks.py").unlink()
    project.write("fib.py", INIT_SCRIPT)
    project.write("other.py", "")
    screen = on_screen("pisa-fab", "init")
    seen = screen.answer(r"^the script \(fib\.py, other\.py\)$", "fibb.py")
    seen = screen.answer(r"^the script \(fib\.py, other\.py\)$", "fib.py", seen)
    assert "there is no file fibb.py" in screen.lines
    seen = screen.answer(r"^the folder for what the jobs print \[fib_run\]$", "", seen)
    seen = screen.answer(r"^the PCs, such as pc\[01-34\] \(nothing: not yet\)$", "pc[01-03", seen)
    seen = screen.answer(r"^the PCs, ", "pc[01-03]", seen)
    screen.answer(r"^jobs at once on each PC \[1\]$", "2", seen)
    assert screen.wait() == 0, screen.lines
    assert all(len(line) <= COLUMNS for line in screen.lines), screen.lines
    cluster = yaml.safe_load((project.path / "cluster.yaml").read_text())
    assert (cluster["slots"], cluster["hosts"]) == (2, ["pc[01-03]"])
    assert yaml.safe_load((project.path / "jobs.yaml").read_text())["output"] == "fib_run"
    done = run_program("inv", "dryrun")
    assert done.returncode == 0, done.said
    assert "fib.py -n " in done.stdout


def test_who_leaves_init_gets_no_files(project: Project, on_screen: Screens) -> None:
    project.write("fib.py", INIT_SCRIPT)
    screen = on_screen("inv", "init")
    screen.wait_for_line("^the folder for what the jobs print")
    screen.type(CTRL_C)
    assert screen.wait() == 130, screen.lines
    assert "Traceback" not in "".join(screen.lines)
    assert sorted(path.name for path in project.path.glob("*.yaml*")) == []
