"""What `check` makes of what it finds: verdicts, warnings, the table; what the program on a host reads."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    ChannelException,
    PasswordRequiredException,
    SSHException,
)
from processes import wait_for

from pisa_fab import check_table, known_hosts, link, probe
from pisa_fab.authorize import default_public_key, read_public_key
from pisa_fab.check import Target, wrong_with
from pisa_fab.diagnosis import ANY_TROUBLE, TROUBLES, HostReport, problems, short_names, size_text, warnings
from pisa_fab.errors import UsageError
from pisa_fab.model import Host
from pisa_fab.pool import LinkGroup
from pisa_fab.pool.keys import NoKeyError, TooManyKeysError
from pisa_fab.pool.troubles import explain
from pisa_fab.visits import MISTAKE, pay

DOCS = Path(__file__).parents[2] / "docs"
GIGA = 1 << 30


class Machine:
    """What is told of a connection that was not made."""

    host, port, user, original_host, proxy = "pc01", 22, "anna", "pc01", None


def good(host: str = "pc01", **facts: object) -> HostReport:
    known: dict[str, object] = {
        "slots": 3,
        "connect_ms": 41.2,
        "key": "ssh-ed25519",
        "python": "3.11.7",
        "head_python": "3.11.7",
        "sees": True,
        "free": 85 * GIGA,
        "size": 270 * GIGA,
        "cores": 8,
        "load": 0.31,
        "people": (),
        "clock_offset": 0.01,
    }
    return HostReport(host, **(known | facts))  # type: ignore[arg-type]


def bad(host: str, verdict: str = "no answer", reason: str = "") -> HostReport:
    return HostReport(host, 3, verdict, reason or f"does not answer at {host} port 22; is it switched on?")


# -- verdicts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (TimeoutError(), "no answer"),
        (ConnectionRefusedError(), "SSH off"),
        (socket.gaierror(), "no such name"),
        (EOFError(), "too busy"),
        (SSHException("No existing session"), "SSH hangs"),
        (AuthenticationException(), "key refused"),
        (TooManyKeysError(), "too many keys"),
        (BadAuthenticationType("", ["password"]), "no key login"),
        (NoKeyError(), "no key"),
        (PasswordRequiredException("/home/anna/.ssh/id_rsa"), "key locked"),
        (ChannelException(1, "administratively prohibited"), "no way there"),
        (ChannelException(2, "connect failed"), "no way there"),
        (SSHException(known_hosts.explain_unknown(["ssh pc01"], authority=False)), "new host key"),
        (SSHException("something else"), "failed"),
    ],
)
def test_what_keeps_a_connection_from_being_made_has_a_verdict_and_a_remedy(
    error: Exception, verdict: str
) -> None:
    reason = str(explain(error, Machine()))
    report = bad("pc01", "", reason)
    assert next((t for t in TROUBLES if re.match(t.begins, reason)), ANY_TROUBLE).verdict == verdict
    (entry,) = problems([report])
    assert check_table.remedy(entry)


class Ended:
    """A stream whose shell has ended with a status."""

    def __init__(self, status: int | None) -> None:
        self.status = status

    def exit_status(self) -> int | None:
        return self.status

    def complaint(self) -> str:
        return "bash: oh dear"


@pytest.mark.parametrize(("status", "verdict"), [(127, "no Python"), (1, "no worker"), (None, "link lost")])
def test_what_keeps_a_program_from_starting_has_a_verdict(status: int | None, verdict: str) -> None:
    reason = str(link.explain_no_worker(Ended(status), "python3"))  # type: ignore[arg-type]
    assert next(t for t in TROUBLES if re.match(t.begins, reason)).verdict == verdict


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        ({"python": "3.6.15"}, "old Python", "Python 3.6.15 is too old for the worker, which needs 3.8"),
        ({"workdir_error": "No such file"}, "no folder", "no such folder here: /home/p (No such file)"),
        ({"sees": False, "sees_error": "x"}, "not shared", "does not see the run directory /home/p/run (x)"),
        ({"seen_here": False}, "not shared", "what it writes into the run directory /home/p/run is not"),
        ({"answer_error": "x"}, "read only", "cannot write into the run directory /home/p/run (x)"),
        ({"venv_error": "missing", "venv_lost": ""}, "no venv", "no such venv here: /home/p/venv"),
        (
            {"venv_error": "missing", "venv_lost": "/usr/bin/python3.9"},
            "no venv",
            "no such venv here: /home/p/venv (its Python, /usr/bin/python3.9, is missing)",
        ),
        ({"venv_error": "does not start (x)"}, "venv broken", "the venv's Python does not start (x)"),
        ({"python": "3.10.1", "sees": True, "seen_here": True, "venv_python": "3.10.1"}, "ok", ""),
    ],
)
def test_what_a_host_lacks_has_a_verdict(found: dict[str, object], verdict: str, reason: str) -> None:
    home = Path("/home/p")
    target = Target(home, home / "venv/bin/python", home / "run", True, home / "q", "n", {})
    said = wrong_with(found, target)
    assert said.startswith(reason)
    known = next((t.verdict for t in TROUBLES if re.match(t.begins, said)), "ok" if not said else "failed")
    assert known == verdict


def test_hosts_with_the_same_trouble_are_one_entry_in_the_order_of_the_cluster_file() -> None:
    names = [f"pc{number:02d}" for number in range(1, 35)]
    locked = [
        bad(name, "key refused", f"refuses the key of user anna; try: ssh-copy-id {name}") for name in names
    ]
    (entry,) = problems(locked)
    assert entry.hosts == tuple(names)
    assert entry.what == "refuses the key of user anna"
    assert "pc[01-34]: refuses the key of user anna" in list(check_table.lines(locked, 80))
    mixed = [bad("b"), locked[0], good("c"), bad("a"), locked[1]]
    assert [entry.hosts for entry in problems(mixed)] == [("b", "a"), ("pc01", "pc02")]


def test_the_command_that_forgets_a_changed_key_is_shown() -> None:
    reason = (
        "its host key has CHANGED: somebody may be listening; if you know why, forget it: ssh-keygen -R a"
    )
    one = list(check_table.lines([bad("a", "key CHANGED", reason)], 80))
    assert "  tip: if you know why, forget it: ssh-keygen -R a" in one
    two = list(check_table.lines([bad(name, "key CHANGED", reason) for name in "ab"], 80))
    assert "  tip: for a: if you know why, forget it: ssh-keygen -R a" in two


class Broken(link.Link):
    """A link with a mistake in it."""

    name = "pc01"

    def connect(self, command: str) -> link.Stream:
        raise ZeroDivisionError

    def disconnect(self) -> None:
        """There is nothing to close."""

    def python(self) -> str:
        return "python3"


def test_a_mistake_of_ours_is_shown_and_stops_no_other_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: shown.append(hook.exc_type))
    group = LinkGroup.from_connections([Broken(), link.LocalLink("pc02")])
    visits = pay(group, [Host("pc01"), Host("pc02")], lambda visit, dialogue: None, 60, print)
    assert [visit.reason for visit in visits] == [MISTAKE, ""]
    wait_for(lambda: shown == [ZeroDivisionError], "the mistake to be shown")


# -- warnings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"python": "3.12.1"}, "Python 3.12.1; this PC: 3.11.7"),
        ({"clock_offset": 3.4}, "clock 3.4 s ahead of this PC's"),
        ({"clock_offset": -130.0}, "clock 130.0 s behind this PC's"),
        ({"free": GIGA // 2}, "only 512M free (0% of the disk)"),
        ({"free": 12 * GIGA}, "only 12G free (4% of the disk)"),
        ({"quota_used": 96, "quota_limit": 100}, "96 of a quota of 100 used"),
        ({"load": 8.1}, "busy: load 8.1 on 8 cores"),
        ({"clock_offset": 1.9, "load": 8.0, "free": 14 * GIGA, "quota_used": 95, "quota_limit": 100}, ""),
    ],
)
def test_what_may_spoil_a_run_is_a_warning_and_no_failure(facts: dict[str, object], said: str) -> None:
    reports = [good("pc01"), good("pc02", **facts)]
    assert [(entry.hosts, entry.what) for entry in warnings(reports)] == ([(("pc02",), said)] if said else [])
    assert check_table.exit_code(reports) == 0


def test_where_the_python_of_this_pc_does_not_count_that_of_most_hosts_does() -> None:
    versions = ["3.11.7", "3.9.2", "3.11.7"]
    reports = [good(f"pc{n}", python=version, head_python="") for n, version in enumerate(versions)]
    assert [(entry.hosts, entry.what) for entry in warnings(reports)] == [
        (("pc1",), "Python 3.9.2; most hosts: 3.11.7")
    ]


# -- the table ----------------------------------------------------------------------------------------------


def test_every_host_has_a_line_with_all_that_is_known() -> None:
    people = ("anna", "bo")
    header, first, second, *_ = check_table.lines(
        [good(people=people, quota_used=2 * GIGA, quota_limit=20 * GIGA), bad("pc02")], 200
    )
    assert " ".join(header.split()) == "host verdict ms key Python sees free quota load clock people"
    assert re.split(r"\s{2,}", first.strip()) == (
        ["pc01", "ok", "41", "ed25519", "3.11.7", "yes", "85G", "2.0G/20G", "0.3/8", "0", "2: anna,bo"]
    )
    assert re.split(r"\s{2,}", second.strip()) == ["pc02", "no answer", *9 * "-"]
    for column in ("verdict", "key", "Python", "people"):
        assert header.index(column) in [match.start() for match in re.finditer(r"(?<=  )\S", second)]


@pytest.mark.parametrize(
    "names", [["pc01"], ["a-rather-long-name-of-a-host"] * 2, ["x" * 100], ["pc01", "q" * 60]]
)
@pytest.mark.parametrize("quota", [None, 20 * GIGA])
@pytest.mark.parametrize("width", [80, 60, 200])
def test_no_line_of_the_table_is_longer_than_the_terminal_is_wide(
    names: list[str], quota: int | None, width: int
) -> None:
    people = ("bernhard", "charlotte", "dorothea")
    reports = [good(name, people=people, quota_used=quota, quota_limit=quota) for name in names]
    reports.append(bad("pc99", "key CHANGED", "its host key has CHANGED: " + "word " * 50))
    lines = list(check_table.lines(reports, width))
    assert all(len(line) <= width for line in lines if "x" * 99 not in line and "q" * 59 not in line)
    assert all("ok" in line for line in lines[1 : len(names) + 1])


def test_a_domain_that_all_hosts_have_is_left_out_and_addresses_are_whole() -> None:
    assert short_names(["pc01.example.org", "pc02.example.org"])["pc01.example.org"] == "pc01"
    for names in (["pc01.example.org", "pc02.example.com"], ["10.0.0.1", "10.0.0.2"], ["pc01", "pc02"]):
        assert list(short_names(names).values()) == names


def test_what_a_host_says_cannot_steer_the_terminal() -> None:
    report = bad("pc01", "no worker", "the worker did not start (\x1b[2J)")
    text = "".join(check_table.lines([report, good("pc02", people=("\x1b[31mred", "a\nb"))], 80))
    assert text.isprintable()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (1 << 20, "1.0M"), (3 * GIGA + 1, "3.0G"), (812 * GIGA, "812G")],
)
def test_sizes_are_short(number: int, text: str) -> None:
    assert size_text(number) == text


@pytest.mark.parametrize(
    ("reports", "code", "closing"),
    [
        ([good("a"), good("b")], 0, "2 of 2 hosts can work; 6 slots"),
        ([good("a"), bad("b")], 1, "1 of 2 hosts can work; 3 slots"),
        ([bad("b")], 3, "0 of 1 host can work; 0 slots"),
    ],
)
def test_the_last_line_and_the_exit_code_say_how_many_can_work(
    reports: list[HostReport], code: int, closing: str
) -> None:
    assert check_table.exit_code(reports) == code
    assert list(check_table.lines(reports, 80))[-1] == closing


def test_json_has_everything() -> None:
    data = json.loads(check_table.json_text([good("pc01", load=9.0), bad("pc02")]))
    assert [host["can_work"] for host in data["hosts"]] == [True, False]
    assert data["hosts"][0]["key"] == "ssh-ed25519"
    assert data["problems"][0]["hosts"] == ["pc02"]
    assert data["warnings"][0]["what"] == "busy: load 9.0 on 8 cores"
    assert (data["can_work"], data["slots"]) == (1, 3)


def test_every_verdict_and_every_column_is_documented() -> None:
    page = (DOCS / "check.md").read_text("utf-8")
    firsts = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    cells = {name for cell in firsts for name in re.findall(r"`([^`]+)`", cell)}
    assert {trouble.verdict for trouble in (*TROUBLES, ANY_TROUBLE)} | {"ok"} <= cells
    assert {"host", *(column.title for column in check_table.COLUMNS)} <= cells


# -- the program on the host --------------------------------------------------------------------------------


def test_the_probe_is_a_program_for_python_3_6() -> None:
    ast.parse(Path(probe.__file__).read_text("utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        ("", {}),
        ("Disk quotas for user anna (uid 1000): none\n", {}),
        (
            "Disk quotas for user anna (uid 1000): \n"
            "     Filesystem   space   quota   limit   grace   files   quota   limit   grace\n"
            "  nfs:/home 2048* 1024 4096 6days 12 0 0\n  /dev/sda1 5 6 7 0 1 0 0 0\n",
            {"quota_used": 2048 << 10, "quota_limit": 1024 << 10},
        ),
        ("nfs:/home 2048 0 4096 0 12 0 0 0\n", {"quota_used": 2048 << 10, "quota_limit": 4096 << 10}),
        ("nfs:/home 2048 0 0 0 12 0 0 0\n", {}),
        ("nfs:/home many words here\n", {}),
    ],
)
def test_a_quota_is_read_for_the_file_system_of_the_run(listing: str, found: dict[str, int]) -> None:
    assert probe.quota_on(listing, "nfs:/home") == found


def test_the_file_system_of_a_folder_is_the_one_of_the_kernel(tmp_path: Path) -> None:
    known = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", "--target", tmp_path], capture_output=True, text=True, check=False
    )
    if known.returncode:
        pytest.skip("no findmnt here")
    assert probe.source_of(str(tmp_path)) == known.stdout.strip().partition("[")[0]


def test_people_are_read_from_utmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [(2, b"~", b"reboot"), (7, b":0", b"anna"), (7, b"pts/3", b"anna"), (8, b"pts/4", b"gone")]
    data = b"".join(
        probe.UTMP_RECORD.pack(kind, 1, line, b"", user, b"")
        for kind, line, user in [*records, (7, b"sshd", b"me")]
    )
    (tmp_path / "utmp").write_bytes(data + b"torn")
    monkeypatch.setattr(probe, "UTMP", str(tmp_path / "utmp"))
    monkeypatch.setenv("PATH", str(tmp_path))  # without `who`
    assert probe.people() == {"people": ["anna"]}
    (tmp_path / "utmp").unlink()
    assert probe.people() == {"people": []}


def test_people_are_asked_of_who(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "who"
    program.write_text(
        "#!/bin/sh\necho 'bo       tty2  2026-11-22 10:00 (tty2)'\n"
        "echo 'anna     pts/0 2026-11-22 10:00 (10.0.0.1)'\necho 'me sshd 2026-11-22 10:00'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.people() == {"people": ["bo", "anna"]}


def test_a_program_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.output_of(["sleep", "1000"], 0.1) == (None, "")
    assert probe.output_of([str(tmp_path / "none")], 0.1)[0] not in (0, None)


# -- keys ---------------------------------------------------------------------------------------------------

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGl+hUzZp7CIo+c29sfaBfxrpTRAhGjrrRCluRsZrviQ anna@pc01"
BLOB = KEY.split()[1]


@pytest.mark.parametrize(
    ("before", "after", "added"),
    [
        (None, KEY + "\n", True),
        ("", KEY + "\n", True),
        ("ssh-rsa AAAA other", f"ssh-rsa AAAA other\n{KEY}\n", True),
        ("ssh-rsa AAAA other\n", f"ssh-rsa AAAA other\n{KEY}\n", True),
        (f"# {KEY}\n", f"# {KEY}\n{KEY}\n", True),
        (f'from="10.*" ssh-ed25519 {BLOB} old name\n', f'from="10.*" ssh-ed25519 {BLOB} old name\n', False),
    ],
)
def test_a_key_is_added_once_and_nothing_else_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, after: str, added: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    file = tmp_path / ".ssh" / "authorized_keys"
    if before is not None:
        file.parent.mkdir(mode=0o777)
        file.write_text(before)
    for is_new in (added, False):
        assert probe.authorize(BLOB, KEY) == {"added": is_new, "home_is_open": False}
        assert file.read_text() == after
        assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_home_that_others_may_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o775)
    assert probe.authorize(BLOB, KEY)["home_is_open"]
    (tmp_path / ".ssh").rename(tmp_path / "away")
    (tmp_path / ".ssh").write_text("in the way")
    assert "File exists" in probe.authorize(BLOB, KEY)["authorize_error"]


def test_the_public_key_of_the_first_identity_that_has_one_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        default_public_key([tmp_path / "id_rsa"])
    assert "ssh-keygen -t ed25519" in raised.value.hint
    (tmp_path / "pool.key.pub").write_text(KEY)
    assert default_public_key([tmp_path / "id_rsa", tmp_path / "pool.key"]) == tmp_path / "pool.key.pub"


def test_only_a_public_key_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"# mine\n{KEY}\n\n")
    assert read_public_key(path) == (BLOB, KEY)
    private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    for text in ("", private, f"{KEY}\n{KEY}\n", "ssh-ed25519 AAAA", f"ssh-rsa {BLOB}", f"{KEY}\x1b[2J"):
        path.write_text(text)
        with pytest.raises(UsageError, match="is no public key"):
            read_public_key(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_public_key(tmp_path / "none")
