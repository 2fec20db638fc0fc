"""Which keys a host may show, as OpenSSH would read the same files."""

from __future__ import annotations

import base64
import fcntl
import multiprocessing
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from pisa_fab.known_hosts import (
    KnownHosts,
    Verdict,
    explain_changed,
    explain_revoked,
    explain_unknown,
    parse,
    remember,
)

ED = "ssh-ed25519"
KEY = base64.b64encode(b"one key").decode()
OTHER = base64.b64encode(b"another key").decode()


def known(text: str) -> KnownHosts:
    return KnownHosts(tuple(parse(text.splitlines(), Path("file"))))


def verdict(text: str, target: str, key: bytes = b"one key", kind: str = ED, plain: str = "") -> Verdict:
    return known(text).judge(target, kind, key, plain).verdict


@pytest.mark.parametrize(
    ("line", "target", "known"),
    [
        (f"pc01 ssh-ed25519 {KEY}", "pc01", True),
        (f"pc01 ssh-ed25519 {KEY} comment with blanks", "pc01", True),
        (f"pc01 ssh-ed25519 {KEY}", "pc02", False),
        (f"pc01,10.0.0.1 ssh-ed25519 {KEY}", "10.0.0.1", True),
        (f"[pc01]:2222 ssh-ed25519 {KEY}", "[pc01]:2222", True),
        (f"[pc01]:2222 ssh-ed25519 {KEY}", "pc01", False),
        (f"PC01 ssh-ed25519 {KEY}", "pc01", True),
        (f"pc* ssh-ed25519 {KEY}", "pc34", True),
        (f"pc*,!pc04 ssh-ed25519 {KEY}", "pc04", False),
        (f"pc0? ssh-ed25519 {KEY}", "pc01", True),
        (f"# pc01 ssh-ed25519 {KEY}", "pc01", False),
        (f"@cert-authority pc01 ssh-ed25519 {KEY}", "pc01", False),
        (f"@unheard-of pc01 ssh-ed25519 {KEY}", "pc01", False),
        ("pc01 ssh-ed25519", "pc01", False),
        ("pc01 ssh-ed25519 %%%", "pc01", False),
        ("|1|broken ssh-ed25519 " + KEY, "pc01", False),
        ("", "pc01", False),
    ],
)
def test_a_line_is_about_a_host_or_not(line: str, target: str, known: bool) -> None:
    assert verdict(line, target) is (Verdict.KNOWN if known else Verdict.UNKNOWN)


def test_a_line_that_is_not_understood_hides_no_other() -> None:
    text = f"@cert-authority * ssh-ed25519 {OTHER}\nbroken\npc01 ssh-ed25519 {KEY}\n"
    assert verdict(text, "pc01") is Verdict.KNOWN


def test_another_key_than_those_that_are_known_has_changed() -> None:
    text = f"pc01 ssh-ed25519 {OTHER}\npc01 ssh-rsa {KEY}\n"
    assert verdict(text, "pc01") is Verdict.CHANGED
    assert verdict(text, "pc01", b"another key") is Verdict.KNOWN
    assert verdict(text, "pc01", b"a third", "ecdsa-sha2-nistp256") is Verdict.CHANGED
    assert verdict(text, "pc02") is Verdict.UNKNOWN


def test_a_second_key_of_one_kind_is_as_good_as_the_first() -> None:
    text = f"pc01 ssh-ed25519 {OTHER}\npc01 ssh-ed25519 {KEY}\n"
    assert verdict(text, "pc01") is Verdict.KNOWN


def test_a_known_key_of_a_kind_that_nobody_can_check_says_nothing() -> None:
    assert verdict(f"pc01 ssh-dss {OTHER}\n", "pc01") is Verdict.UNKNOWN


def test_a_revoked_key_is_never_trusted_whatever_another_line_says() -> None:
    text = f"pc01 ssh-ed25519 {KEY}\npc01 ssh-rsa {OTHER}\n@revoked * ssh-ed25519 {KEY}\n"
    assert verdict(text, "pc01") is Verdict.REVOKED
    assert verdict(text, "pc01", b"another key", "ssh-rsa") is Verdict.KNOWN


def test_an_authority_is_mentioned_and_trusts_nobody() -> None:
    found = known(f"@cert-authority *.org ssh-ed25519 {KEY}").judge("pc01.org", ED, b"one key")
    assert (found.verdict, found.authority) == (Verdict.UNKNOWN, True)
    assert "certificates of hosts are not supported" in explain_unknown(["ssh pc01.org"], authority=True)


def test_a_name_without_its_port_counts_for_the_key_that_it_has() -> None:
    text = f"pc01 ssh-ed25519 {KEY}\n"
    assert verdict(text, "[pc01]:2222", plain="pc01") is Verdict.KNOWN
    assert verdict(text, "[pc01]:2222", b"another key", plain="pc01") is Verdict.UNKNOWN
    assert verdict(f"@revoked {text}", "[pc01]:2222", plain="pc01") is Verdict.REVOKED


def test_a_host_is_asked_for_the_kinds_of_key_that_are_known() -> None:
    text = f"pc01 ssh-rsa {KEY}\n[pc01]:2222 ssh-dss {KEY}\n@revoked * ssh-ed25519 {KEY}\n"
    assert known(text).about("[pc01]:2222", "pc01").kinds() == ["ssh-rsa"]


# -- what a person is told --------------------------------------------------------------------------------


def test_how_to_forget_a_key_depends_on_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "known hosts"
    file.write_text(f"pc01 ssh-ed25519 {OTHER}\npc* ssh-ed25519 {OTHER}\n")
    by_name, by_pattern = KnownHosts.load([file]).lines
    assert explain_changed(by_name, "pc01", file).endswith("with: ssh-keygen -R pc01")
    elsewhere = explain_changed(by_name, "[pc01]:22", Path("/other"))
    assert elsewhere.endswith(f"with: ssh-keygen -R '[pc01]:22' -f '{file}'")
    assert explain_changed(by_pattern, "pc01", file).endswith(f"look at line 2 of '{file}'")
    assert f"REVOKED (line 1 of '{file}')" in explain_revoked(by_name)


# -- saving -----------------------------------------------------------------------------------------------


def save(file: Path, target: str, key: bytes = b"one key") -> Verdict:
    return remember(file, target, ED, key).verdict


def test_a_new_key_is_saved_in_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / ".ssh" / "known_hosts"
    found = remember(file, "[pc01]:2222", ED, b"one key")
    assert (found.verdict, found.saved) == (Verdict.UNKNOWN, True)
    assert file.read_text() == f"[pc01]:2222 ssh-ed25519 {KEY}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    again = remember(file, "[pc01]:2222", ED, b"one key")
    assert (again.verdict, again.saved) == (Verdict.KNOWN, False)
    assert len(file.read_text().splitlines()) == 1


def test_a_last_line_without_an_end_is_given_one(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"pc01 ssh-ed25519 {KEY}")
    assert save(file, "pc02") is Verdict.UNKNOWN
    assert file.read_text() == f"pc01 ssh-ed25519 {KEY}\npc02 ssh-ed25519 {KEY}\n"


def test_a_key_that_has_come_to_be_known_meanwhile_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    text = f"pc01 ssh-ed25519 {OTHER}\n@revoked * ssh-ed25519 {KEY}\n"
    file.write_text(text)
    assert save(file, "pc01", b"a third") is Verdict.CHANGED
    assert save(file, "pc02") is Verdict.REVOKED
    assert file.read_text() == text


def test_names_are_hashed_as_openssh_does(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    remember(file, "[pc01]:2222", ED, b"one key", hash_names=True)
    assert "pc01" not in file.read_text()
    assert verdict(file.read_text(), "[pc01]:2222") is Verdict.KNOWN
    assert verdict(file.read_text(), "pc01") is Verdict.UNKNOWN


def test_what_is_no_file_keeps_nothing() -> None:
    found = remember(Path("/dev/null"), "pc01", ED, b"one key")
    assert (found.verdict, found.saved) == (Verdict.UNKNOWN, False)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save(tmp_path / "file" / "known_hosts", "pc01")


def save_many(file: Path, process: int) -> None:
    threads = [threading.Thread(target=save, args=(file, f"pc{process}-{n}")) for n in range(17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_threads_and_processes_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("# mine, and no newline")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(save_many, [(file, number) for number in range(4)])
    comment, *lines = file.read_text().splitlines()
    assert comment == "# mine, and no newline"
    assert sorted(lines) == sorted(f"pc{p}-{n} ssh-ed25519 {KEY}" for p in range(4) for n in range(17))


def test_a_file_that_is_replaced_while_somebody_waits_for_it_is_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("")
    with file.open() as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        thread = threading.Thread(target=save, args=(file, "pc01"))
        thread.start()
        (tmp_path / "new").write_text(f"pc02 ssh-ed25519 {KEY}\n")  # as ssh-keygen -R does
        (tmp_path / "new").rename(file)
    thread.join(60)
    assert [line.split()[0] for line in file.read_text().splitlines()] == ["pc02", "pc01"]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_names_that_openssh_hashed_are_found(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, key, *_ = (tmp_path / "key.pub").read_text().split()
    file.write_text(f"[pc01]:2222 {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    text = file.read_text()
    assert "pc01" not in text
    assert verdict(text, "[pc01]:2222", base64.b64decode(key), kind) is Verdict.KNOWN
    assert verdict(text, "[pc02]:2222", base64.b64decode(key), kind) is Verdict.UNKNOWN


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("hash_names", [False, True])
def test_openssh_finds_what_was_saved_and_forgets_it(tmp_path: Path, hash_names: bool) -> None:
    file = tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, key, *_ = (tmp_path / "key.pub").read_text().split()
    remember(file, "[pc01]:2222", kind, base64.b64decode(key), hash_names=hash_names)
    found = subprocess.run(["ssh-keygen", "-F", "[pc01]:2222", "-f", file], capture_output=True, check=True)
    assert key.encode() in found.stdout
    subprocess.run(["ssh-keygen", "-R", "[pc01]:2222", "-f", file], capture_output=True, check=True)
    assert KnownHosts.load([file]).lines == ()
