"""What `ssh -G` says, as it is read; and which private keys are tried and unlocked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pisa_fab.errors import UsageError
from pisa_fab.identities import Credentials, KeyFile, agent_keys, unlock
from pisa_fab.ssh_config import (
    Address,
    OpenSSH,
    ProxyCommand,
    Settings,
    SshConfigError,
    agent_socket,
    expand,
    parse_jumps,
    real_home,
)

MakeKey = Callable[..., Path]
needs_ssh = pytest.mark.skipif(not OpenSSH.is_here(), reason="ssh is not installed")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def make_key(home: Path) -> MakeKey:
    """Make a key pair: `make_key("id_rsa", "-t", "rsa")`, with `passphrase=` an encrypted one."""

    def make(name: str, *options: str, passphrase: str = "") -> Path:
        path = home / ".ssh" / name
        options = options or ("-t", "ed25519")
        subprocess.run(["ssh-keygen", "-q", *options, "-N", passphrase, "-a", "1", "-f", path], check=True)
        return path

    return make


def look(path: Path) -> KeyFile:
    found = KeyFile.look_at(path)
    assert found is not None
    return found


# -- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("gate", Address("gate")),
        ("me@gate:22", Address("gate", "me", 22)),
        ("me@realm@gate", Address("gate", "me@realm")),
        ("ssh://me@gate:22/", Address("gate", "me", 22)),
        ("[::1]:22", Address("::1", None, 22)),
        ("me@[::1]", Address("::1", "me")),
        ("::1", Address("::1")),
    ],
)
def test_an_address_is_read_as_proxyjump_has_it(text: str, address: Address) -> None:
    assert Address.parse(text) == address


def test_a_chain_is_read_in_order_and_none_is_none() -> None:
    assert parse_jumps("a@b:3,c") == (Address("b", "a", 3), Address("c"))
    assert parse_jumps("none") == parse_jumps("") == ()


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("%h:%p", "H:P"), ("%%h", "%h"), ("%%%h", "%H"), ("100%", "100%"), ("%x", "%x"), ("%", "%"), ("", "")],
)
def test_tokens_are_replaced(text: str, expanded: str) -> None:
    assert expand(text, {"h": "H", "p": "P", "%": "%"}) == expanded


# -- ssh -G ------------------------------------------------------------------------------------------------


@needs_ssh
def test_everything_that_is_asked_for_is_read(home: Path) -> None:
    (home / "known hosts").touch()
    (home / ".ssh" / "config").write_text(
        "Host pc01\n  HostName pc01.example.org\n  User me\n  Port 2222\n  HostKeyAlias pc\n"
        "  IdentityFile ~/%r-key\n  IdentityFile %d/other\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        "  ProxyJump a@gate:22,inner\n  StrictHostKeyChecking off\n  ConnectTimeout 7\n"
        f'  HashKnownHosts yes\n  UserKnownHostsFile "{home}/known hosts" /k\n  GlobalKnownHostsFile none\n'
    )
    assert OpenSSH().ask(Address("pc01")) == Settings(
        hostname="pc01.example.org",
        port=2222,
        user="me",
        identities=(home / "me-key", home / "other"),
        identities_named=True,
        identities_only=True,
        jumps=(Address("gate", "a", 22), Address("inner")),
        host_key_alias="pc",
        user_known_hosts=(home / "known hosts", Path("/k")),
        strictness="no",
        hash_known_hosts=True,
        connect_timeout=7,
    )


@needs_ssh
def test_what_nobody_configured_is_what_ssh_does_by_itself(home: Path) -> None:
    found = OpenSSH("none").ask(Address("pc01", "me", 5))
    assert (found.hostname, found.user, found.port, found.strictness) == ("pc01", "me", 5, "ask")
    assert not found.identities_named
    assert home / ".ssh" / "id_ed25519" in found.identities
    assert found.user_known_hosts[0] == home / ".ssh" / "known_hosts"
    assert (found.jumps, found.proxy_command, found.connect_timeout) == ((), "", None)


@needs_ssh
def test_a_file_that_is_named_as_ssh_would_take_it_anyway_is_named_all_the_same(home: Path) -> None:
    (home / ".ssh" / "config").write_text("IdentityFile ~/.ssh/id_ed25519\n")
    found = OpenSSH().ask(Address("pc01"))
    assert found.identities_named
    assert found.identities == (home / ".ssh" / "id_ed25519",)


@needs_ssh
@pytest.mark.parametrize("name", ["-oPort=1", "a b", "a;b", "$(touch x)"])
def test_a_name_is_neither_option_nor_command(name: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text('Match exec "test -n %h"\n  Port 3\n')
    with pytest.raises(SshConfigError, match="invalid characters"):
        OpenSSH(str(tmp_path / "config")).ask(Address(name))


@needs_ssh
def test_a_mistake_is_told_with_ssh_s_own_line(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host *\n  Port abc\n")
    with pytest.raises(SshConfigError, match=r"config line 2: Bad port 'abc'"):
        OpenSSH(str(tmp_path / "config")).ask(Address("pc01"))


def test_the_ssh_folder_of_the_real_home_is_that_of_home(home: Path) -> None:
    values = {"identityfile": [str(real_home() / ".ssh" / "key")], "userknownhostsfile": ["/elsewhere/k"]}
    found = Settings.of(values, Address("pc01"))
    assert found.identities == (home / ".ssh" / "key",)
    assert found.user_known_hosts == (Path("/elsewhere/k"),)


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("", "/mine"),
        ("SSH_AUTH_SOCK", "/mine"),
        ("none", ""),
        ("$OTHER", "/other"),
        ("${OTHER}", "/other"),
        ("/third", "/third"),
    ],
)
def test_the_agent_is_the_one_that_is_named(named: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/mine")
    monkeypatch.setenv("OTHER", "/other")
    assert agent_socket(named) == found


# -- ProxyCommand ------------------------------------------------------------------------------------------


def test_a_proxy_command_is_the_shell_s_to_read_but_not_what_it_is_given() -> None:
    settings = Settings("10.0.0.1;id", 22, "me", proxy_command="echo %h%p | cat; echo gone >&2 #")
    proxy = ProxyCommand(settings.expand(settings.proxy_command, "pc01"))
    with proxy.socket.makefile("rb") as said:
        assert said.read() == b"10.0.0.1;id22\n"
    proxy.close()
    proxy.process.wait(60)
    assert proxy.complaint() == "gone"


def test_a_proxy_command_ends_with_its_connection() -> None:
    proxy = ProxyCommand("cat")
    proxy.socket.sendall(b"there")
    assert proxy.socket.recv(5) == b"there"
    assert os.getsid(proxy.process.pid) != os.getsid(0)
    proxy.close()
    assert proxy.process.wait(60) is not None


# -- private keys ------------------------------------------------------------------------------------------


@needs_ssh
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519"),
        ("-t", "rsa", "-b", "2048"),
        ("-t", "ecdsa"),
        ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("passphrase", ["", "secret"])
def test_a_key_s_file_says_whether_it_is_encrypted(
    make_key: MakeKey, options: tuple[str, ...], passphrase: str
) -> None:
    path = make_key("key", *options, passphrase=passphrase)
    found = look(path)
    assert found.encrypted is bool(passphrase)
    assert found.kind == (path.with_suffix(".pub").read_text().split()[0])


@needs_ssh
def test_the_public_half_is_in_openssh_s_own_format(make_key: MakeKey) -> None:
    path = make_key("key", passphrase="secret")
    with_pub = look(path)
    path.with_suffix(".pub").unlink()
    assert look(path) == with_pub


@pytest.mark.parametrize("text", ["", "rubbish", "-----BEGIN OPENSSH PRIVATE KEY-----\n%%%\n-----END"])
def test_what_is_no_key_is_not_encrypted(home: Path, text: str) -> None:
    (home / "key").write_text(text)
    assert look(home / "key") == KeyFile(home / "key", False)
    assert KeyFile.look_at(home / "nothing") is None


@needs_ssh
def test_keys_are_tried_in_this_order(make_key: MakeKey) -> None:
    mine, other = look(make_key("mine")), look(make_key("other"))
    offered = [b"wrong", other.public]
    paths = (mine.path, other.path)
    named = Credentials(named=paths, usual=(Path("/usual"),))
    assert list(named.order(offered)) == [mine, other.public, b"wrong"]
    assert list(Credentials(named=paths, only_named=True).order(offered)) == [mine, other.public]
    assert list(Credentials(usual=paths).order(offered)) == [other.public, b"wrong", mine]
    assert list(Credentials(usual=paths, only_named=True).order(offered)) == [other.public, mine]
    assert list(Credentials().order(offered)) == offered


@needs_ssh
def test_only_what_is_needed_is_unlocked(make_key: MakeKey) -> None:
    locked, free = look(make_key("locked", passphrase="secret")), look(make_key("free"))
    both = (locked.path, free.path)
    assert Credentials(named=both).locked([]) == [locked]
    assert Credentials(named=both).locked([b"wrong"]) == [locked]
    assert Credentials(named=both).locked([locked.public]) == []
    assert Credentials(named=both, password="p").locked([]) == []
    assert Credentials(usual=both).locked([]) == []
    assert Credentials(usual=(locked.path, Path("/none"))).locked([]) == [locked]
    assert Credentials(usual=(locked.path,)).locked([b"any"]) == []


def test_a_passphrase_is_asked_for_until_it_fits_and_no_answer_gives_up() -> None:
    files = [KeyFile(Path("/one"), True), KeyFile(Path("/two"), True), KeyFile(Path("/three"), True)]
    answers = iter(["no", "yes", "", "yes"])
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    unlock(files, ask, lambda file, passphrase: passphrase == "yes")
    assert [next(name for name in ("/one", "/two", "/three") if name in prompt) for prompt in asked] == [
        "/one",
        "/one",
        "/two",
        "/three",
    ]
    assert ["wrong" in prompt for prompt in asked] == [False, True, False, False]


def test_three_wrong_passphrases_end_it() -> None:
    asked: list[str] = []
    with pytest.raises(UsageError, match="no passphrase of 3 fits /one"):
        unlock([KeyFile(Path("/one"), True)], lambda prompt: asked.append(prompt) or "no", lambda *_: False)
    assert len(asked) == 3


def test_where_there_is_no_agent_there_are_no_keys(tmp_path: Path) -> None:
    assert agent_keys("") == agent_keys(str(tmp_path / "nothing")) == []
