"""What we rely on in Fabric, and what we change about it."""

from __future__ import annotations

import threading
from pathlib import Path

import paramiko
import pytest
from fabric import Config, Connection, ThreadingGroup
from fabric.exceptions import GroupException

from pisa_fab.contact import Trouble
from pisa_fab.model import Host
from pisa_fab.pool import Pool, RefuseUnknown, SSHLink, UnknownHostKeyError, explain, trust_known_hosts


class Member:
    """What stands in a group's place for a connection."""

    def __init__(self, name: str, barrier: threading.Barrier, *, fails: bool = False) -> None:
        self.name, self.barrier, self.fails = name, barrier, fails
        self.given: tuple[object, ...] = ()

    def serve(self, *given: object) -> str:
        self.given = given
        self.barrier.wait(60)  # passes only when all members are served at the same time
        if self.fails:
            raise OSError(self.name)
        return self.name


def test_a_threading_group_serves_all_side_by_side_and_one_that_fails_stops_no_other() -> None:
    barrier = threading.Barrier(3)
    members = [Member("a", barrier), Member("b", barrier, fails=True), Member("c", barrier)]
    group = ThreadingGroup.from_connections(members)
    with pytest.raises(GroupException) as raised:
        group._do("serve", "inbox")
    assert all(member.given == ("inbox",) for member in members)
    assert sorted(raised.value.result.succeeded.values()) == ["a", "c"]
    assert [str(error) for error in raised.value.result.failed.values()] == ["b"]


def test_a_pool_is_a_threading_group_of_connections() -> None:
    pool = Pool.over_ssh([Host("pc01"), Host("pc02")])
    assert isinstance(pool, ThreadingGroup)
    assert all(isinstance(link, Connection) for link in pool)
    assert list(pool.links()) == ["pc01", "pc02"]


def test_key_files_do_not_pile_up_from_host_to_host(tmp_path: Path) -> None:
    config = Config()
    config.connect_kwargs = {"key_filename": ["everybodys"]}
    pool = Pool.over_ssh([Host(f"pc{n}", identity=tmp_path / f"key{n}") for n in range(3)], config)
    for number, link in enumerate(pool):
        assert link.connect_kwargs["key_filename"] == ["everybodys", str(tmp_path / f"key{number}")]
    assert config.connect_kwargs.key_filename == ["everybodys"]


def test_no_link_and_no_gateway_trusts_a_key_that_nobody_has_accepted() -> None:
    pool = Pool.over_ssh([Host("pc01", gateway="gate"), Host("pc02", gateway="gate"), Host("pc03")])
    links = list(pool)
    assert links[0].gateway is links[1].gateway
    for connection in (*links, links[0].gateway):
        assert isinstance(connection.client._policy, RefuseUnknown)
        with pytest.raises(UnknownHostKeyError, match="ssh -p 2222 pc01"):
            connection.client._policy.missing_host_key(connection.client, "[pc01]:2222", None)


def test_host_keys_are_looked_up_by_name_and_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    key = paramiko.ECDSAKey.generate()
    line = f"[pc01]:2222 {key.get_name()} {key.get_base64()}\n"
    (tmp_path / ".ssh" / "known_hosts").write_text("@cert-authority * ssh-rsa AAAA\n" + line)
    known, other = Pool.over_ssh([Host("pc01", port=2222), Host("pc02", port=2222)])
    for link in (known, other):
        trust_known_hosts(link)
    assert known.client.get_host_keys().check("[pc01]:2222", key)
    assert len(other.client.get_host_keys()) == 0


def test_a_host_key_that_was_forgotten_is_trusted_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    key = paramiko.ECDSAKey.generate()
    file = tmp_path / ".ssh" / "known_hosts"
    file.write_text(f"pc01 {key.get_name()} {key.get_base64()}\n")
    (link,) = Pool.over_ssh([Host("pc01")])
    trust_known_hosts(link)
    assert link.client.get_host_keys().check("pc01", key)
    file.write_text("")
    trust_known_hosts(link)
    assert len(link.client.get_host_keys()) == 0


def banner_error(cause: Exception) -> Exception:
    """Make what Paramiko raises when a server has nothing to say."""
    error = paramiko.SSHException("Error reading SSH protocol banner" + str(cause))
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words", "trouble"),
    [
        (TimeoutError(), "does not answer", Trouble.AWAY),
        (ConnectionRefusedError(), "connection refused", Trouble.AWAY),
        (OSError(113, "No route to host"), "does not answer", Trouble.AWAY),
        (paramiko.SSHException("odd"), "odd", Trouble.AWAY),
        (OSError(5, "Input/output error"), "Input/output error", Trouble.AWAY),
        (banner_error(TimeoutError()), "says nothing", Trouble.AWAY),
        (banner_error(EOFError()), "refuses for the moment", Trouble.BUSY),
        (EOFError(), "refuses for the moment", Trouble.BUSY),
        (ConnectionResetError(), "refuses for the moment", Trouble.BUSY),
        (paramiko.AuthenticationException(), "refuses the key of user somebody", Trouble.PERSON),
        (paramiko.PasswordRequiredException(), "ssh-add", Trouble.PERSON),
        (UnknownHostKeyError("its host key is not known"), "not known", Trouble.PERSON),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_went_wrong_is_said_in_one_line(error: Exception, words: str, trouble: Trouble) -> None:
    link = next(iter(Pool.over_ssh([Host("pc01", user="somebody")])))
    assert isinstance(link, SSHLink)
    said = explain(error, link)
    assert words in str(said)
    assert "\n" not in str(said)
    assert said.trouble is trouble
