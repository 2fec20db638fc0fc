"""What we rely on in Fabric, and what we change about it; how configurations are put together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import invoke
import paramiko
import pytest
from fabric import Config, Connection, ThreadingGroup
from fabric.exceptions import GroupException
from paramiko.config import SSHConfig

from pisa_fab.contact import Trouble
from pisa_fab.errors import UsageError
from pisa_fab.identities import Credentials
from pisa_fab.link import LinkError
from pisa_fab.model import Host
from pisa_fab.pool import Access, SSHLink, host_of
from pisa_fab.pool.keys import HostKeyError, HostKeys, NoKeyError, PasswordRefusedError
from pisa_fab.pool.links import CONNECT_TIMEOUT, Gateway
from pisa_fab.pool.troubles import explain

Configure = Callable[[str], None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a current folder of one's own: whatever lies in those of others is not read."""
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.chdir(tmp_path / "project")
    return path


@pytest.fixture
def ssh_config(home: Path) -> Configure:
    """Write OpenSSH's configuration."""

    def write(text: str) -> None:
        (home / ".ssh" / "config").write_text(text)

    return write


def link_to(host: Host | str, access: Access | None = None) -> SSHLink:
    """Make the link to one host."""
    (link,) = (access or Access()).links([host if isinstance(host, Host) else Host(host)])
    assert isinstance(link, SSHLink)
    return link


def credentials_of(link: Connection) -> Credentials:
    """Give what a link would show its host."""
    found = link.connect_kwargs["auth_strategy"].credentials
    assert isinstance(found, Credentials)
    return found


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


def test_a_group_is_a_threading_group_of_connections() -> None:
    group = Access().links([Host("pc01"), Host("pc02")])
    assert isinstance(group, ThreadingGroup)
    assert all(isinstance(link, Connection) for link in group)
    assert list(group.links()) == ["pc01", "pc02"]


def test_every_link_and_the_gateway_that_they_share_decide_about_host_keys_themselves() -> None:
    hosts = [Host("pc01", gateway="gate"), Host("pc02", gateway="gate"), Host("pc03")]
    first, second, third = Access().links(hosts)
    assert first.gateway is second.gateway
    assert third.gateway is False
    for connection in (first, second, third, first.gateway):
        assert isinstance(connection.client._policy, HostKeys)
        with pytest.raises(HostKeyError, match=rf"ssh .*\b{connection.original_host}\b"):
            key = paramiko.ECDSAKey.generate()
            connection.client._policy.missing_host_key(connection.client, connection.host, key)


def test_the_command_that_accepts_a_key_has_what_the_cluster_file_says() -> None:
    policy = link_to(Host("pc01", user="me", port=2222, gateway="gate")).route.host_keys
    with pytest.raises(HostKeyError, match=r"ssh -p 2222 -J gate me@pc01 or .* --accept-new"):
        policy.missing_host_key(None, "", paramiko.ECDSAKey.generate())


# -- what OpenSSH's configuration says --------------------------------------------------------------------


def test_the_cluster_file_wins_over_openssh_and_openssh_over_fabrics_files(ssh_config: Configure) -> None:
    Path("fabric.yaml").write_text("user: of-fabric\nport: 3\n")
    ssh_config("Host pc01\n  User of-ssh\n  Port 2\n  HostName 10.0.0.1\n")
    mine = link_to(Host("pc01", user="mine", port=1))
    assert (mine.user, mine.port, mine.host, mine.original_host) == ("mine", 1, "10.0.0.1", "pc01")
    by_ssh = link_to("pc01")
    assert (by_ssh.user, by_ssh.port) == ("of-ssh", 2)
    by_fabric = link_to("pc02")
    assert (by_fabric.user, by_fabric.port, by_fabric.host) == ("of-fabric", 3, "pc02")


def test_fabrics_files_and_variables_count_under_inv(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / ".fabric.yaml").write_text("timeouts: {connect: 7}\nconnect_kwargs: {key_filename: [key]}\n")
    monkeypatch.setenv("FABRIC_USER", "of-variable")
    link = link_to("pc01", Access(invoke.Config()))
    assert (link.user, link.connect_timeout) == ("of-variable", 7)
    assert credentials_of(link).named == (Path("key").absolute(),)


def test_fabrics_file_beside_invokes_project_counts(tmp_path: Path) -> None:
    project = tmp_path / "elsewhere"
    project.mkdir()
    (project / "fabric.yaml").write_text("user: of-project\n")
    config = invoke.Config(project_location=str(project))
    assert link_to("pc01", Access(config)).user == "of-project"


def test_what_invokes_configuration_says_of_connections_counts() -> None:
    config = invoke.Config(overrides={"connect_kwargs": {"compress": True}, "user": "of-invoke"})
    link = link_to("pc01", Access(config))
    assert (link.user, link.connect_kwargs["compress"]) == ("of-invoke", True)


def test_a_file_that_fabric_names_is_read_in_place_of_the_usual_ones(
    ssh_config: Configure, tmp_path: Path
) -> None:
    ssh_config("Host pc01\n  Port 2\n")
    other = tmp_path / "other_config"
    other.write_text("Host pc01\n  User other\n")
    for config in (Config(runtime_ssh_path=str(other)), Config(overrides={"ssh_config_path": str(other)})):
        link = link_to("pc01", Access(config))
        assert (link.user, link.port) == ("other", 22)
    assert link_to("pc01", Access(Config(overrides={"load_ssh_configs": False}))).port == 22


def test_settings_that_a_program_gave_are_paramikos_to_read(ssh_config: Configure) -> None:
    ssh_config("Host pc01\n  Port 2\n")
    given = SSHConfig.from_text("Host pc01\n  Port 5\n  ProxyJump gate\n  IdentityFile ~/mine\n")
    link = link_to("pc01", Access(Config(ssh_config=given)))
    assert (link.port, link.gateway.host) == (5, "gate")
    assert credentials_of(link).named == (Path("~/mine").expanduser(),)
    assert link_to("pc01", Access(Config())).port == 2
    assert link_to("pc01", Access(Config().clone())).port == 2


def test_without_openssh_paramiko_reads_its_files(
    ssh_config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_config("Host pc01\n  Port 2\n  StrictHostKeyChecking accept-new\n")
    monkeypatch.setenv("PATH", "")
    link = link_to("pc01")
    assert link.port == 2
    assert link.route.host_keys.accept_new


def test_a_mistake_in_the_configuration_is_shown_with_its_place(ssh_config: Configure, home: Path) -> None:
    ssh_config("Host *\n  Prot 2\n")
    with pytest.raises(UsageError, match=r"config.*line 2: Bad configuration option: prot"):
        Access().resolve([Host("pc01"), Host("pc02")])


def test_a_host_that_ssh_refuses_is_said_by_its_link_alone() -> None:
    access = Access()
    hosts = [Host("pc01"), Host("-oProxyCommand=touch x")]
    access.resolve(hosts)
    good, bad = access.links(hosts)
    assert not good.route.broken
    assert "invalid characters" in bad.route.broken
    assert not Path("x").exists()


@pytest.mark.parametrize("given", ["", "ConnectTimeout 3"])
def test_the_time_to_connect(ssh_config: Configure, given: str) -> None:
    ssh_config(f"Host *\n  {given}\n")
    assert link_to("pc01").connect_timeout == (3 if given else CONNECT_TIMEOUT)
    of_file = Config(overrides={"timeouts": {"connect": 5}})
    connection = Connection("pc01", config=of_file)
    assert link_to("pc01", Access(of_file, {"pc01": connection})).connect_timeout == (3 if given else 5)
    of_fab = Config(overrides={"connect_kwargs": {"timeout": 4}})  # what `fab -t 4` makes
    link = link_to("pc01", Access(of_fab))
    assert link.connect_timeout == 4
    assert "timeout" not in link.connect_kwargs  # or Fabric refuses to open it


# -- gateways ---------------------------------------------------------------------------------------------


def chain(link: Connection) -> list[tuple[str, int]]:
    """Give name and port of the gateways, the one that is connected to first first."""
    found = []
    while link.shared_gateway is not None:
        link = link.shared_gateway.line
        found.insert(0, (link.original_host, link.port))
    return found


def test_gateways_are_those_of_the_cluster_file_or_of_openssh(ssh_config: Configure) -> None:
    ssh_config(
        "Host one\n  ProxyJump gate\nHost two\n  ProxyJump me@gate:7,inner\nHost gate\n  Port 5\n"
        "Host none\n  ProxyJump none\nHost direct\n  ProxyCommand none\nHost gate-*\n  ProxyJump one\n"
        "Host *\n  ProxyJump gate\n"
    )
    names = ["one", "two", "none", "direct", "gate-2", "other"]
    links = Access().links([*map(Host, names), Host("one", gateway="third"), Host("one", gateway="none")])
    chains = [chain(link) for link in links]
    assert chains == [
        [("gate", 5)],  # which is not sent through itself
        [("gate", 7), ("inner", 22)],
        [],
        [],
        [("gate", 5), ("one", 22)],
        [("gate", 5)],
        [("gate", 5), ("third", 22)],
        [],
    ]
    assert links[0].gateway is links[5].gateway


def test_gateways_without_end_are_refused(ssh_config: Configure) -> None:
    ssh_config("Host *\n  ProxyJump x%h\n")
    links = [link_to("pc01")]
    while links[-1].shared_gateway is not None:
        links.append(links[-1].shared_gateway.line)
    assert "too many gateways" in links[-1].route.broken


def test_a_proxy_command_has_its_tokens(ssh_config: Configure) -> None:
    ssh_config("Host pc01\n  HostName 10.0.0.1\n  User me\n  ProxyCommand reach %h %p %r %n %%h\n")
    assert link_to("pc01").gateway == "reach 10.0.0.1 22 me pc01 %h"
    assert link_to(Host("pc01", user="a b")).gateway == "reach 10.0.0.1 22 'a b' pc01 %h"


class Waiting:
    """A lock that says how many want it."""

    def __init__(self) -> None:
        self.lock, self.comers = threading.Lock(), threading.Semaphore(0)

    def __enter__(self) -> None:
        self.comers.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class BrokenLine:
    """What stands in a gateway's place for a connection that cannot be made."""

    is_connected = False
    route = SimpleNamespace(name="gate")

    def __init__(self) -> None:
        self.tries = 0

    def reach(self) -> None:
        self.tries += 1
        raise LinkError("switched off", Trouble.AWAY)

    def hang_up(self) -> None:
        pass


def test_a_gateway_that_is_away_is_tried_once_for_all_who_wait_for_it() -> None:
    line, lock = BrokenLine(), Waiting()
    gateway = Gateway(line, lock)  # type: ignore[arg-type]
    errors: list[str] = []

    def come() -> None:
        with pytest.raises(LinkError) as raised:
            gateway.open()
        errors.append(str(raised.value))

    threads = [threading.Thread(target=come) for _ in range(5)]
    with lock.lock:
        for thread in threads:
            thread.start()
        assert all(lock.comers.acquire(timeout=60) for _ in threads)
    for thread in threads:
        thread.join()
    assert errors == ["gateway gate: switched off"] * 5
    assert line.tries == 1
    come()
    assert line.tries == 2


# -- Connections of others --------------------------------------------------------------------------------


def test_the_host_of_a_connection_says_what_a_person_said_and_nothing_that_was_read(
    ssh_config: Configure,
) -> None:
    ssh_config("Host pc01\n  User of-ssh\n  Port 2\n")
    assert host_of(Connection("pc01")) == Host("pc01")
    assert host_of(Connection("me@pc01:3")) == Host("pc01", user="me", port=3)


def test_a_link_takes_what_a_given_connection_says(ssh_config: Configure, tmp_path: Path) -> None:
    ssh_config("Host pc01\n  Port 2\n  ProxyJump other\nHost gate\n  Port 9\n")
    given = Connection(
        "pc01",
        user="me",
        gateway=Connection("you@gate"),
        connect_timeout=3,
        connect_kwargs={"key_filename": str(tmp_path / "key"), "compress": True},
    )
    link = link_to(host_of(given), Access(given.config, {"pc01": given}))
    assert (link.user, link.port, link.connect_timeout) == ("me", 2, 3)
    assert (link.gateway.user, link.gateway.host, link.gateway.port) == ("you", "gate", 9)
    assert link.connect_kwargs["compress"] is True
    assert credentials_of(link).named == (tmp_path / "key",)


def test_a_gateway_that_fabric_has_read_is_left_to_openssh(ssh_config: Configure) -> None:
    ssh_config("Match host pc01\n  ProxyJump gate:5\nHost pc01\n  ProxyJump other\n")
    given = Connection("pc01")
    assert given.gateway is not None
    assert chain(link_to("pc01", Access(given.config, {"pc01": given}))) == [("gate", 5)]


def test_key_files_do_not_pile_up_from_host_to_host(ssh_config: Configure, tmp_path: Path) -> None:
    ssh_config("Host pc1\n  IdentityFile ~/key1\nHost pc2\n  IdentityFile ~/key2\n")
    config = Config()
    config.connect_kwargs = {"key_filename": ["everybodys"]}
    given = {name: Connection(name, config=config) for name in ("pc0", "pc1", "pc2")}  # as `fab -H` does
    assert len(config.connect_kwargs.key_filename) == 3
    hosts = [Host(name, identity=tmp_path / f"own{name}") for name in given]
    named = [credentials_of(link).named for link in Access(config, given).links(hosts)]
    everybodys = Path("everybodys").absolute()
    assert named == [
        (tmp_path / "ownpc0", everybodys),
        (tmp_path / "ownpc1", everybodys, Path("~/key1").expanduser()),
        (tmp_path / "ownpc2", everybodys, Path("~/key2").expanduser()),
    ]


def test_a_key_of_the_command_line_counts_for_hosts_that_have_it_in_openssh_s_files_and_for_others(
    ssh_config: Configure,
) -> None:
    ssh_config("Host pc1\n  IdentityFile /k/key\n")
    identities = {"identities": [Path("/k/key")]}  # what `fab -i` makes
    config = Config(overrides={"authentication": identities, "connect_kwargs": {"key_filename": ["/k/key"]}})
    given = {name: Connection(name, config=config) for name in ("pc1", "pc2")}
    for link in Access(config, given).links([Host("pc1"), Host("pc2")]):
        assert credentials_of(link).named == (Path("/k/key"),)


def test_the_key_files_of_several_hosts_are_given_once_each(ssh_config: Configure, home: Path) -> None:
    ssh_config("Host pc1 pc2\n  IdentityFile ~/key\n")
    hosts = [Host("pc1", identity=Path("/own")), Host("pc2")]
    assert Access().identities(hosts) == [Path("/own"), home / "key"]
    assert home / ".ssh" / "id_ed25519" in Access().identities([Host("pc3")])


def test_paramikos_words_about_keys_are_heeded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    usual = credentials_of(link_to("pc01"))
    assert usual.agent == "/agent"
    assert home / ".ssh" / "id_ed25519" in usual.usual
    words = {"allow_agent": False, "look_for_keys": False, "password": "p", "passphrase": "pp"}
    told = credentials_of(link_to("pc01", Access(Config(overrides={"connect_kwargs": words}))))
    assert told == Credentials(passphrase="pp", password="p")
    assert credentials_of(link_to("pc01", Access(password="q"))).password == "q"


# -- words ------------------------------------------------------------------------------------------------


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
        (HostKeyError("its host key is not known"), "not known", Trouble.PERSON),
        (NoKeyError(), "no private key", Trouble.PERSON),
        (PasswordRefusedError(), "the key and the password of user somebody", Trouble.PERSON),
        (
            paramiko.BadAuthenticationType("no", ["password"]),
            "other means than a key: password",
            Trouble.PERSON,
        ),
        (paramiko.ChannelException(1, "no"), "lets nobody through", Trouble.PERSON),
        (paramiko.ChannelException(2, "no"), "its gateway cannot reach pc01 port 22", Trouble.AWAY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_went_wrong_is_said_in_one_line(error: Exception, words: str, trouble: Trouble) -> None:
    said = explain(error, link_to(Host("pc01", user="somebody")))
    assert words in str(said)
    assert "\n" not in str(said)
    assert said.trouble is trouble
