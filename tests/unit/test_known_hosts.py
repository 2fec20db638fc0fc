"""Which keys a host may show, as OpenSSH would read the same files."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from pisa_fab.known_hosts import KnownHosts, parse

KEY = base64.b64encode(b"one key").decode()
OTHER = base64.b64encode(b"another key").decode()


def keys_of(text: str, target: str) -> list[bytes]:
    return [key for _, key in KnownHosts(tuple(parse(text.splitlines()))).keys_of(target)]


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
    assert keys_of(line, target) == ([b"one key"] if known else [])


def test_a_line_that_is_not_understood_hides_no_other() -> None:
    text = f"@cert-authority * ssh-ed25519 {OTHER}\nbroken\npc01 ssh-ed25519 {KEY}\n"
    assert keys_of(text, "pc01") == [b"one key"]


def test_a_revoked_key_is_never_trusted_whatever_another_line_says() -> None:
    text = f"pc01 ssh-ed25519 {KEY}\npc01 ssh-rsa {OTHER}\n@revoked * ssh-ed25519 {KEY}\n"
    assert keys_of(text, "pc01") == [b"another key"]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_names_that_openssh_hashed_are_found(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, key, *_ = (tmp_path / "key.pub").read_text().split()
    file.write_text(f"[pc01]:2222 {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    text = file.read_text()
    assert "pc01" not in text
    assert keys_of(text, "[pc01]:2222") == [base64.b64decode(key)]
    assert keys_of(text, "[pc02]:2222") == []
