"""OpenSSH's configuration, keys and host keys with real sshds, gateways and agents: `Access`, programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import pytest
from fabric import Config, Connection
from passwords import PASSWORD, PasswordHost
from programs import Completed, Project
from sshd import Agent, Hosts, SshHost, UnavailableError, make_key

from pisa_fab.errors import UsageError
from pisa_fab.link import Link, LinkError
from pisa_fab.model import Host
from pisa_fab.pool import Access

Run = Callable[..., Completed]
MANY = 34  # PCs of a pool


class User:
    """Writes the configuration of this process's user, and connects to hosts as they are called in it."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.folder = hosts.home / ".ssh"
        self.config = self.folder / "config"
        self.known_hosts = self.folder / "known_hosts"
        self.asked: list[str] = []

    def configure(self, text: str) -> None:
        """Write the configuration; what it leaves out is as everywhere, but for the system's known_hosts."""
        self.config.write_text(f"{text}\nHost *\n  GlobalKnownHostsFile /dev/null\n")

    def entry(self, name: str, host: SshHost, *lines: str) -> str:
        """Give an entry of the configuration that finds a host."""
        return "\n  ".join([f"Host {name}", "HostName 127.0.0.1", f"Port {host.port}", *lines]) + "\n"

    def answer(self, *answers: str) -> Callable[[str], str]:
        """Give what answers questions so; they are in `asked` then."""
        left = iter(answers)

        def ask(prompt: str) -> str:
            self.asked.append(prompt)
            return next(left)

        return ask

    def visit(self, hosts: Sequence[Host | str], access: Access | None = None) -> dict[str, str]:
        """Connect to all at once, and give what each is called where it runs, or what is said of it."""
        targets = [host if isinstance(host, Host) else Host(host) for host in hosts]
        group = (access or Access()).links(targets)
        inbox: SimpleQueue[tuple[str, str]] = SimpleQueue()

        def visitor(link: Link) -> None:
            try:
                stream = link.connect("basename $PISA_TEST_HOST")
                said = b"".join(iter(stream.receive, b"")).decode().strip()
            except LinkError as error:
                said = f"{error.trouble}: {error}"
            inbox.put((link.name, f"{said} {link.accepted}".strip()))

        group.visit(visitor)
        said = dict(inbox.get(timeout=120) for _ in targets)
        group.close()
        return said


@pytest.fixture
def user(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> User:
    """The user of this process, at home where the hosts are known."""
    monkeypatch.setenv("HOME", str(hosts.home))
    monkeypatch.chdir(hosts.home)
    return User(hosts)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """The user's agent, which has no keys yet."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed")
    agent = Agent()
    monkeypatch.setenv("SSH_AUTH_SOCK", agent.socket)
    yield agent
    agent.close()


# -- what is configured ------------------------------------------------------------------------------------


def test_hosts_are_found_as_openssh_finds_them(hosts: Hosts, user: User) -> None:
    one, two, odd = (*hosts.start(2), *hosts.start(1, unknown_key=True))
    key = odd.known_key
    (user.folder / "more").write_text(user.entry("included", one))
    (user.folder / "of_odd").write_text(f"# another file\nthe-odd-one {key}\n")
    user.configure(
        f"Include {user.folder}/more\n"
        f"Match host by-match\n  HostName 127.0.0.1\n  Port {two.port}\n"
        f'Match exec "test %n = by-exec"\n  HostName 127.0.0.1\n  Port {one.port}\n'
        f'Match exec "test %n = never" host by-name\n  Port 1\n'
        + user.entry("room-?? !room-02", two)
        + user.entry("room-02 by-name", one)
        + user.entry("odd", odd, "HostKeyAlias the-odd-one", f"UserKnownHostsFile {user.folder}/of_odd")
    )
    names = {
        "included": one,
        "by-match": two,
        "by-exec": one,
        "room-01": two,
        "room-02": one,
        "by-name": one,
        "odd": odd,
    }
    assert user.visit(list(names)) == {name: host.name for name, host in names.items()}


def test_a_home_s_own_names_are_used_for_files_and_user(hosts: Hosts, user: User) -> None:
    (host,) = hosts.start(1)
    hosts.identity.rename(user.folder / "named")
    me = "root" if "User root" in user.config.read_text() else ""
    user.configure(user.entry("pc", host, "IdentityFile ~/.ssh/named", f"User {me}" if me else ""))
    assert user.visit(["pc"]) == {"pc": "pc01"}
    user.configure(user.entry("pc", host, "IdentityFile ~/.ssh/named", "User nobody-at-all"))
    said = user.visit(["pc", Host("pc", user=me or None)][:1])
    assert "refuses the key of user nobody-at-all" in said["pc"]


def test_a_mistake_in_the_configuration_ends_a_command_before_it_begins(
    hosts: Hosts, user: User, project: Project, run_program: Run
) -> None:
    hosts.start(1)
    user.config.write_text("Host pc01\n  Prot 22\n")
    project.write("script.py", "")
    project.jobs({"script": "script.py", "output": "run"})
    project.pool(["pc01"])
    done = run_program("inv", "submit")
    assert done.returncode == 2, done.said
    assert f"{user.config}: line 2: Bad configuration option: prot" in done.stderr
    assert "Traceback" not in done.said


# -- gateways ----------------------------------------------------------------------------------------------


def test_many_hosts_behind_one_gateway_share_one_connection_to_it(hosts: Hosts, user: User) -> None:
    (gate,) = hosts.start(1, settings=["MaxStartups 1:100:1"])
    pool = hosts.start(4)
    user.configure(
        user.entry("gate", gate)
        + "".join(user.entry(host.name, host, "ProxyJump gate") for host in pool)
        + "Host *\n  ProxyJump gate\n"  # fits the gateway, too
    )
    names = [host.name for host in pool]
    assert user.visit(names) == {name: name for name in names}
    assert gate.logins() == 1
    assert [host.logins() for host in pool] == [1, 1, 1, 1]


def test_connections_whose_gateway_has_gone_are_closed_in_silence(hosts: Hosts, user: User) -> None:
    (gate,) = hosts.start(1)
    pool = hosts.start(3)
    user.configure(
        user.entry("gate", gate) + "".join(user.entry(host.name, host, "ProxyJump gate") for host in pool)
    )
    group = Access().links([Host(host.name) for host in pool])
    streams = [link.connect("cat") for link in group.links().values()]
    gate.kill_link()
    assert [stream.receive() for stream in streams] == [b"", b"", b""]
    group.close()  # and no thread of Paramiko has anything to say either, or this test fails


def test_each_gateway_of_a_chain_has_a_configuration_of_its_own(hosts: Hosts, user: User) -> None:
    inner_key = hosts.folder / "inner_key"
    outer, last = hosts.start(2)
    (inner,) = hosts.start(1, refuse_key=True, authorized=[make_key(inner_key)], unknown_key=True)
    (user.folder / "of_inner").write_text(f"the-inner-one {inner.known_key}\n")
    user.configure(
        user.entry("outer", outer)
        + user.entry(
            "inner",
            inner,
            f"IdentityFile {inner_key}",
            "HostKeyAlias the-inner-one",
            f"UserKnownHostsFile {user.folder}/of_inner",
        )
        + user.entry("last", last, "ProxyJump outer,inner")
        + user.entry("inner-too", inner, "ProxyJump nowhere.invalid")
    )
    assert user.visit(["last"]) == {"last": "pc02"}
    assert [outer.logins(), inner.logins(), last.logins()] == [1, 1, 1]
    # The cluster file wins over ProxyJump, and `none` is a word for none.
    by_file = Host("inner-too", gateway="outer", identity=inner_key)
    assert "host key is not known" in user.visit([by_file])["inner-too"]
    assert outer.logins() == 2
    assert "host key is not known" in user.visit([Host("inner-too", gateway="none")])["inner-too"]
    assert "gateway nowhere.invalid: no machine is known" in user.visit(["inner-too"])["inner-too"]


def test_what_is_wrong_with_a_gateway_is_said_of_all_hosts_behind_it(hosts: Hosts, user: User) -> None:
    (gate,) = hosts.start(1, unknown_key=True)
    closed = hosts.start(1, settings=["AllowTcpForwarding no"])[0]
    user.configure(user.entry("gate", gate) + user.entry("closed", closed))
    behind = [Host(f"pc{number}", gateway="gate") for number in range(5)]
    said = user.visit(behind)
    assert len(said) == 5
    assert all(text.startswith("person: gateway gate: its host key is not known") for text in said.values())
    assert "ssh gate or " in said["pc0"]
    assert "gateway lets nobody through" in user.visit([Host("pc1", gateway="closed")])["pc1"]
    accepting = Access(accept_new=True)
    lost = user.visit([Host("127.0.0.1", port=1, gateway="gate")], accepting)["127.0.0.1"]
    assert lost == "away: its gateway cannot reach 127.0.0.1 port 1"
    assert f"[127.0.0.1]:{gate.port} {gate.known_key}" in user.known_hosts.read_text()


def test_a_proxy_command_is_run_as_openssh_runs_it(hosts: Hosts, user: User) -> None:
    gate, host = hosts.start(2)
    known = f"-o UserKnownHostsFile={user.known_hosts} -o IdentityFile={hosts.identity}"
    user.configure(
        user.entry(
            "by-command", host, f"ProxyCommand ssh -F none {known} -W %h:%p -p {gate.port} 127.0.0.1 2>&1"
        )
        + user.entry("failing", host, "ProxyCommand echo no way to %h >&2; exit 1")
    )
    assert user.visit(["by-command", "failing"]) == {
        "by-command": "pc02",
        "failing": "away: its ProxyCommand does not connect: no way to 127.0.0.1",
    }
    assert gate.logins() == 1


# -- private keys ------------------------------------------------------------------------------------------


def test_a_named_key_is_shown_first_however_many_others_an_agent_has(
    hosts: Hosts, user: User, agent: Agent
) -> None:
    host = hosts.start(1, settings=["MaxAuthTries 3"])[0]
    for number in range(8):
        make_key(user.folder / f"wrong{number}")
        agent.add(user.folder / f"wrong{number}")
    user.configure(
        user.entry("named", host, f"IdentityFile {hosts.identity}")
        + user.entry("only", host, "IdentitiesOnly yes")
        + user.entry("unnamed", host)
    )
    said = user.visit(["named", "only", "unnamed"])
    assert said["named"] == said["only"] == "pc01"
    assert said["unnamed"].startswith("person: refuses you after too many keys")
    assert user.visit([Host("unnamed", identity=hosts.identity)]) == {"unnamed": "pc01"}


def test_an_encrypted_key_in_the_agent_needs_no_passphrase(hosts: Hosts, user: User, agent: Agent) -> None:
    key = user.folder / "mine"
    public = make_key(key, "secret")
    host = hosts.start(1, refuse_key=True, authorized=[public])[0]
    user.configure(
        user.entry("named", host, f"IdentityFile {key}")
        + user.entry("only", host, f"IdentityFile {key}", "IdentitiesOnly yes")
        + user.entry("none", host, f"IdentityFile {key}", "IdentityAgent none")
        + user.entry("path", host, f"IdentityFile {key}", f"IdentityAgent {agent.socket}")
        + user.entry("any", host)
    )
    assert "ssh-add" in user.visit(["named"])["named"]
    agent.add(key, "secret")
    access = Access()
    access.unlock([Host(name) for name in ("named", "only", "path", "any")], user.answer())
    said = user.visit(["named", "only", "path", "any", "none"], access)
    assert [said.pop(name) for name in ("named", "only", "path", "any")] == ["pc01"] * 4
    assert "ssh-add ~/.ssh/mine" in said["none"]


def test_an_encrypted_key_is_asked_for_once_for_all_hosts_and_gateways(hosts: Hosts, user: User) -> None:
    key = user.folder / "mine"
    public = make_key(key, "secret")
    pool = hosts.start(4, refuse_key=True, authorized=[public])
    user.configure(
        "".join(user.entry(host.name, host) for host in pool[:3])
        + user.entry("gate", pool[3])
        + f"Host *\n  IdentityFile {key}\n"
    )
    targets = [Host(host.name, gateway="gate") for host in pool[:3]]
    access = Access()
    access.unlock(targets, user.answer("wrong", "secret"))
    assert len(user.asked) == 2
    assert user.asked[0] == "passphrase of your key ~/.ssh/mine: "
    assert user.visit(targets, access) == {host.name: host.name for host in targets}
    access.unlock(targets, user.answer())  # asks nobody
    assert len(user.asked) == 2


def test_a_key_that_nobody_unlocks_is_said_by_its_hosts(hosts: Hosts, user: User) -> None:
    key = user.folder / "mine"
    host = hosts.start(1, refuse_key=True, authorized=[make_key(key, "secret")])[0]
    user.configure(user.entry("pc", host, f"IdentityFile {key}"))
    access = Access()
    access.unlock([Host("pc")], user.answer(""))
    said = user.visit(["pc"], access)["pc"]
    assert said == "person: your private key is encrypted; load it into an agent with: ssh-add ~/.ssh/mine"
    with pytest.raises(UsageError, match="no passphrase of 3 fits"):
        Access().unlock([Host("pc")], user.answer("a", "b", "c"))
    assert host.logins() == 0


def test_the_passphrase_of_the_configuration_is_enough(hosts: Hosts, user: User) -> None:
    key = user.folder / "id_rsa"  # a name that ssh tries by itself
    host = hosts.start(1, refuse_key=True, authorized=[make_key(key, "secret")])[0]
    hosts.identity.unlink()
    user.configure(user.entry("pc", host))
    of_fab = Config(overrides={"connect_kwargs": {"passphrase": "secret"}})
    access = Access(of_fab)
    access.unlock([Host("pc")], user.answer())
    assert user.visit(["pc"], access) == {"pc": "pc01"}
    asking = Access()
    asking.unlock([Host("pc")], user.answer("secret"))
    assert user.visit(["pc"], asking) == {"pc": "pc01"}
    assert "ssh-add" in user.visit(["pc"])["pc"]


def test_where_there_is_no_key_at_all_it_is_said(hosts: Hosts, user: User) -> None:
    host = hosts.start(1)[0]
    user.configure(user.entry("pc", host, "IdentityFile none"))
    assert "you have no private key" in user.visit(["pc"])["pc"]


def test_a_server_that_takes_no_keys_is_said(hosts: Hosts, user: User) -> None:
    host = hosts.start(1, settings=["PubkeyAuthentication no", "PasswordAuthentication yes"])[0]
    user.configure(user.entry("pc", host))
    assert "other means than a key: password" in user.visit(["pc"])["pc"]


def test_a_key_of_a_connection_is_used_for_its_host_and_of_the_command_line_for_all(
    hosts: Hosts, user: User
) -> None:
    key = hosts.folder / "key"
    pool = hosts.start(2, refuse_key=True, authorized=[make_key(key)])
    user.configure("".join(user.entry(host.name, host) for host in pool))
    connection = Connection("pc01", connect_kwargs={"key_filename": str(key)})
    said = user.visit(["pc01", "pc02"], Access(None, {"pc01": connection}))
    assert said["pc01"] == "pc01"
    assert "refuses the key" in said["pc02"]
    of_fab = Config(overrides={"connect_kwargs": {"key_filename": [str(key)]}})
    assert user.visit(["pc01", "pc02"], Access(of_fab)) == {"pc01": "pc01", "pc02": "pc02"}


@pytest.mark.root
def test_a_password_is_tried_before_the_server_has_had_enough_of_keys(
    hosts: Hosts, user: User, agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "door").mkdir()
    try:
        door = PasswordHost("door", tmp_path / "door", tmp_path / "door" / "home")
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        for number in range(8):
            make_key(user.folder / f"wrong{number}")
            agent.add(user.folder / f"wrong{number}")
        user.configure(door.client_config)
        user.known_hosts.write_text(door.known_hosts)
        assert user.visit(["door"])["door"].startswith("person: refuses you after too many keys")
        assert user.visit(["door"], Access(password=PASSWORD)) == {"door": "door"}
        of_fab = Config(overrides={"connect_kwargs": {"password": "abracadabra"}})
        said = user.visit(["door"], Access(of_fab))["door"]
        assert said.startswith("person: refuses the key and the password of user ")
    finally:
        door.stop()


# -- host keys ---------------------------------------------------------------------------------------------


def test_new_keys_of_a_whole_pool_are_saved_at_once_and_none_is_lost(hosts: Hosts, user: User) -> None:
    host = hosts.start(1, unknown_key=True, settings=["MaxStartups 100"])[0]
    names = [f"new{number:02d}" for number in range(MANY)]
    user.configure("".join(user.entry(name, host, f"HostKeyAlias {name}") for name in names))
    user.known_hosts.write_text("# mine, without a newline")
    refused = user.visit(names[:2])
    assert all(
        text.endswith(f"accept it with: ssh {name} or pisa-fab check --accept-new")
        for name, text in refused.items()
    )
    said = user.visit(names, Access(accept_new=True))
    assert len(said) == MANY
    assert all(text.startswith("pc01 ED25519 SHA256:") for text in said.values()), said
    comment, *lines = user.known_hosts.read_text().splitlines()
    assert comment == "# mine, without a newline"
    assert sorted(lines) == [f"{name} {host.known_key}" for name in names]
    again = user.visit(names[:4], Access(accept_new=True))
    assert again == dict.fromkeys(names[:4], "pc01")


@pytest.mark.parametrize("word", ["accept-new", "no", "off"])
def test_new_keys_are_accepted_where_openssh_is_told_so(hosts: Hosts, user: User, word: str) -> None:
    host = hosts.start(1, unknown_key=True)[0]
    user.configure(user.entry("pc", host, f"StrictHostKeyChecking {word}", "HashKnownHosts yes"))
    assert user.visit(["pc"])["pc"].startswith("pc01 ED25519")
    assert user.known_hosts.read_text().startswith("|1|")
    assert user.visit(["pc"]) == {"pc": "pc01"}
    user.configure(user.entry("pc", host, f"StrictHostKeyChecking {word}", "UserKnownHostsFile /dev/null"))
    assert user.visit(["pc"]) == {"pc": "pc01"}


@pytest.mark.parametrize("checking", ["yes", "no"])
def test_changed_and_revoked_keys_are_refused_whatever_is_configured(
    hosts: Hosts, user: User, checking: str
) -> None:
    changed, revoked = (*hosts.start(1, wrong_key=True), *hosts.start(1))
    with user.known_hosts.open("a") as file:
        file.write(f"@revoked * {revoked.known_key}\n@cert-authority *.org ssh-rsa AAAA\n")
    before = user.known_hosts.read_text()
    user.configure(
        user.entry("changed", changed)
        + user.entry("revoked", revoked)
        + f"Host *\n  StrictHostKeyChecking {checking}\n"
    )
    said = user.visit(["changed", "revoked"], Access(accept_new=checking == "no"))
    assert said["changed"].startswith("person: its host key has CHANGED")
    command = f"ssh-keygen -R '[127.0.0.1]:{changed.port}' -f ~/.ssh/known_hosts"
    assert said["changed"].endswith(command)
    assert said["revoked"].startswith("person: its host key has been REVOKED (line 3 of ~/.ssh/known_hosts)")
    assert user.known_hosts.read_text() == before
    assert changed.logins() + revoked.logins() == 0


def test_a_host_that_only_an_authority_could_vouch_for_is_refused_with_that_reason(
    hosts: Hosts, user: User
) -> None:
    host = hosts.start(1, unknown_key=True)[0]
    user.configure(user.entry("pc", host))
    user.known_hosts.write_text(f"@cert-authority * {host.known_key}\n")
    assert "certificates of hosts are not supported" in user.visit(["pc"])["pc"]


def test_a_host_with_several_keys_is_asked_for_the_one_that_is_known(hosts: Hosts, user: User) -> None:
    rsa = hosts.folder / "rsa_key"
    hosts.folder.mkdir(parents=True)
    public = make_key(rsa, kind="rsa")
    host = hosts.start(1, settings=[f"HostKey {rsa}"], unknown_key=True)[0]
    user.configure(user.entry("pc", host))
    user.known_hosts.write_text(f"[127.0.0.1]:{host.port} {public}\n")
    assert user.visit(["pc"]) == {"pc": "pc01"}


# -- whole programs ----------------------------------------------------------------------------------------


@pytest.fixture
def batch(project: Project) -> Project:
    """Two jobs that print nothing much."""
    project.write("script.py", "print('done')\n")
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": ["1", "2"]}})
    return project


def test_a_batch_runs_on_hosts_that_only_openssh_s_configuration_knows(
    hosts: Hosts, user: User, batch: Project, run_program: Run
) -> None:
    gate, *pool = hosts.start(3)
    (user.folder / "pool").write_text("".join(user.entry(h.name, h, "ProxyJump gate") for h in pool))
    user.configure(f"Include {user.folder}/pool\n" + user.entry("gate", gate))
    batch.pool(pool)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert gate.logins() == 1


def test_fab_s_own_options_count(hosts: Hosts, user: User, batch: Project, run_program: Run) -> None:
    key = hosts.folder / "key"
    host = hosts.start(1, refuse_key=True, authorized=[make_key(key)])[0]
    other = hosts.folder / "other_config"
    other.write_text(user.entry("elsewhere", host, "ConnectTimeout 9"))
    user.configure("")
    batch.write("fabfile.py", "from pisa_fab.tasks import *\n")
    options = ["-S", str(other), "-i", str(key), "-t", "20", "-H", "elsewhere"]
    done = run_program("fab", *options, "submit", "-j", "jobs.yaml")
    assert done.returncode == 0, done.said
    assert "2 succeeded" in done.stdout
    assert host.logins() == 1
