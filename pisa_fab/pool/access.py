"""How this user's connections are made: what Fabric's and OpenSSH's configuration say, put together.

The cluster file wins, then comes what a `Connection` or an option of `fab` says, then OpenSSH's configuration
as `ssh -G` gives it, then Fabric's own files. Nothing is opened here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fabric import Config, Connection
from fabric.util import get_local_user
from paramiko.config import SSHConfig

from pisa_fab.errors import UsageError
from pisa_fab.identities import Ask, Credentials, KeyFile, agent_keys, unlock
from pisa_fab.invocation import as_typed
from pisa_fab.model import Host
from pisa_fab.pool.keys import HostKeys, Keyring, Login
from pisa_fab.pool.links import CONNECT_TIMEOUT, Gateway, Line, LinkGroup, Route, SSHLink
from pisa_fab.ssh_ahead import Answer, Inquiry
from pisa_fab.ssh_config import Address, OpenSSH, Settings, SshConfigError, local_user, parse_jumps

MOST_GATEWAYS = 8  # one behind another
TOO_MANY = SshConfigError("too many gateways, one behind another")
FABRICS = (
    "authentication",
    "connect_kwargs",
    "gateway",
    "load_ssh_configs",
    "port",
    "ssh_config_path",
    "user",
)


@dataclass(frozen=True)
class Target:
    """A machine to get to: a host or a gateway on the way.

    Attributes:
        address: what ssh is asked for.
        identity, gateway: as the cluster file has them.
        given: the Connection that somebody else made for it, None for none.
    """

    address: Address
    identity: Path | None = None
    gateway: str | None = None
    given: Connection | None = None


class Access:
    """How this user's connections are made: configuration, keys, host keys; one for each command."""

    def __init__(
        self,
        config: object = None,
        connections: Mapping[str, Connection] | None = None,
        *,
        accept_new: bool = False,
        password: str = "",
        asked: Inquiry | None = None,
    ) -> None:
        """Make it of what the command line has.

        `config` is the configuration of the context: Fabric's has key files, passwords and timeouts of the
        command line. Any other (Invoke's) knows little of connections, and Fabric's own files are read.
        `connections` are those that `fab -H` or a user's own task made, by the names of their hosts: what
        they say counts for the links to these hosts. `accept_new` saves unknown host keys; `password` is
        tried where no key lets us in. `asked` is what ssh was asked ahead, by who guessed with which options.
        """
        self.config = fabric_config(config)
        self.connections = dict(connections or {})
        self.accept_new = accept_new
        self.password = password
        self.keyring = Keyring()
        self.ssh = OpenSSH(ssh_file(self.config)) if OpenSSH.is_here() and uses_files(self.config) else None
        # For Connections, which are not to read OpenSSH's files on their own.
        self._bare = self.config.clone()
        if self.config.authentication.strategy_class is None:
            self._bare._set(base_ssh_config=SSHConfig())
        self._known: dict[Address, Answer] = {}
        if asked is not None and (self.ssh is None or self.ssh.options != asked.ssh.options):
            asked.answers()  # not needed, but no thread may be left
            asked = None
        self._asked = asked

    # -- for commands -------------------------------------------------------------------------------------

    def resolve(self, hosts: Iterable[Host]) -> None:
        """Ask ssh about these hosts and their gateways, several at a time; nothing is asked twice.

        Raises UsageError where it fails for all of them alike: the mistake is in the configuration.
        """
        targets = [self._target(host) for host in hosts]
        self._look_up(targets)
        answers = [self._known[target.address] for target in targets]
        failures = {str(answer) for answer in answers if isinstance(answer, SshConfigError)}
        if len(failures) == 1 and all(isinstance(answer, SshConfigError) for answer in answers):
            raise UsageError(f"ssh: {failures.pop()}", "mend it; `ssh -G HOST` shows what ssh reads")

    def unlock(self, hosts: Sequence[Host], ask: Ask) -> None:
        """Ask for the passphrase of each encrypted private key that is needed, once. Raises UsageError."""
        self.resolve(hosts)
        pending, seen = [self._target(host) for host in hosts], set()
        locked: dict[KeyFile, None] = {}
        while pending:
            target = pending.pop(0)
            if target in seen:
                continue
            seen.add(target)
            pending.extend(self._hops(target))
            credentials = self._credentials(target)
            for file in credentials.locked(agent_keys(credentials.agent)):
                if not self.keyring.fits(file, credentials.passphrase):
                    locked[file] = None
        unlock(locked, ask, self.keyring.fits)

    def identities(self, hosts: Iterable[Host]) -> list[Path]:
        """Give the private key files that are tried on these hosts, whether they exist or not."""
        targets = [self._target(host) for host in hosts]
        self._look_up(targets)
        return list(dict.fromkeys(path for target in targets for path in self._credentials(target).files))

    def links(self, hosts: Sequence[Host]) -> LinkGroup:
        """Make the links to these hosts; nothing is opened. One that ssh knows no way to says so then."""
        targets = [self._target(host) for host in hosts]
        self._look_up(targets)
        gateways: dict[object, Gateway] = {}
        routes = [self._route(target, self._via(target, gateways, frozenset())) for target in targets]
        links = [SSHLink(host, route, self._bare) for host, route in zip(hosts, routes, strict=True)]
        group: LinkGroup = LinkGroup.from_connections(links)
        return group

    # -- what ssh says ------------------------------------------------------------------------------------

    def _look_up(self, targets: Sequence[Target]) -> None:
        for _ in range(MOST_GATEWAYS):
            self._ask(targets)
            targets = [hop for target in targets for hop in self._hops(target)]

    def _ask(self, targets: Iterable[Target]) -> None:
        if self._asked is not None:
            self._known.update(self._asked.answers())
            self._asked = None
        new = {target.address for target in targets} - self._known.keys()
        if self.ssh is not None and new:
            self._known.update(Inquiry(self.ssh, new).answers())
        for address in new - self._known.keys():
            self._known[address] = self._read(address)

    def _read(self, address: Address) -> Answer:
        try:
            return Settings.of(paramikos_reading(self.config, address.name), address)
        except ValueError as error:
            return SshConfigError(str(error))

    def _settings(self, target: Target) -> Settings:
        known = self._known.get(target.address, TOO_MANY)
        if isinstance(known, SshConfigError):
            known = Settings(target.address.name, 22, local_user())
        address, config = target.address, self.config
        user, port = known.user, known.port
        if user == local_user() and config.user != get_local_user():
            user = config.user  # of fabric.yaml, where ssh has nothing but its default
        if port == 22:
            port = int(config.port)
        return replace(known, user=address.user or user, port=address.port or port)

    # -- targets, and the way there -----------------------------------------------------------------------

    def _target(self, host: Host) -> Target:
        given = self.connections.get(host.name)
        own = host_of(given) if given is not None else host
        address = Address(host.name, host.user or own.user, host.port or own.port)
        return Target(address, host.identity, host.gateway, given)

    def _carrier(self, target: Target) -> tuple[Target, ...] | str:
        # The gateways to a target, the first one first, or a ProxyCommand.
        settings = self._settings(target)
        if target.gateway is not None:
            return tuple(map(Target, parse_jumps(target.gateway)))
        gateway = given_gateway(target.given)
        if gateway is None and settings.jumps:
            return tuple(map(Target, settings.jumps))
        gateway = gateway or settings.proxy_command or self.config.gateway
        if isinstance(gateway, Connection):
            return tuple(chain_of(gateway))
        return settings.expand(gateway, target.address.name) if gateway else ()

    def _hops(self, target: Target) -> tuple[Target, ...]:
        carrier = self._carrier(target)
        return () if isinstance(carrier, str) else carrier

    def _via(
        self, target: Target, gateways: dict[object, Gateway], passed: frozenset[str]
    ) -> Gateway | str | None:
        carrier = self._carrier(target)
        if isinstance(carrier, str):
            return carrier
        passed |= {target.address.name}
        if any(hop.address.name in passed for hop in carrier):
            return None  # `Host *` with a ProxyJump that fits the gateway, too
        via: Gateway | str | None = None
        for place, hop in enumerate(carrier):
            if (
                place == 0
            ):  # the way to the first is its own affair, that to the others leads through the last
                via = self._via(hop, gateways, passed | {hop.address.name for hop in carrier[1:]})
            key = (hop, via)
            if key not in gateways:
                gateways[key] = Gateway(Line(self._route(hop, via), self._bare))
            via = gateways[key]
        return via

    def _route(self, target: Target, via: Gateway | str | None) -> Route:
        settings = self._settings(target)
        options = self._options(target)
        timeouts = (
            options.pop("timeout", None),  # of fab -t
            given_timeout(target.given),
            settings.connect_timeout,
            self.config.timeouts.connect,
            CONNECT_TIMEOUT,
        )
        key = options.pop("pkey", None)
        for name in ("key_filename", "passphrase", "password", "allow_agent", "look_for_keys"):
            options.pop(name, None)
        login = Login(self._credentials(target), self.keyring, settings.user, key)
        options.setdefault("auth_strategy", login)
        known = self._known.get(target.address, TOO_MANY)
        broken = f"ssh cannot say how: {known}" if isinstance(known, SshConfigError) else ""
        accept = [ssh_command(target), as_typed("check", "--accept-new")]
        return Route(
            target.address.name,
            settings,
            int(next(timeout for timeout in timeouts if timeout)),
            options,
            HostKeys(settings, self.accept_new, accept),
            via,
            broken,
        )

    # -- keys ---------------------------------------------------------------------------------------------

    def _options(self, target: Target) -> dict[str, Any]:
        # What Paramiko's client is to be told, in Fabric's words.
        given = dict(target.given.connect_kwargs) if target.given is not None else {}
        return {**self.config.connect_kwargs, **given}

    def _credentials(self, target: Target) -> Credentials:
        settings = self._settings(target)
        options = self._options(target)
        named = [target.identity] if target.identity is not None else []
        named += self._named_keys(target)
        named += settings.identities if settings.identities_named else ()
        return Credentials(
            tuple(dict.fromkeys(named)),
            settings.identities if options.get("look_for_keys", True) else (),
            settings.agent if options.get("allow_agent", True) else "",
            settings.identities_only,
            options.get("passphrase"),
            self.password or options.get("password"),
        )

    def _named_keys(self, target: Target) -> list[Path]:
        # Fabric adds the key files that Paramiko has read from OpenSSH's files to those that were named, and
        # to the configuration that `fab -H` has for all hosts: here they are told apart again.
        read = {
            name for given in self.connections.values() for name in given.ssh_config.get("identityfile", [])
        }
        names: list[Any] = list(self.config.authentication.identities)
        for options in (self._options(target), self.config.connect_kwargs):
            files = options.get("key_filename") or []
            names += [name for name in ([files] if isinstance(files, str) else files) if name not in read]
        return [Path(name).expanduser().absolute() for name in names]


def host_of(connection: Connection) -> Host:
    """Give the host of a connection, with user and port where it says more than Fabric's configuration."""
    user = connection.ssh_config.get("user", connection.config.user)
    port = int(connection.ssh_config.get("port", connection.config.port))
    return Host(
        connection.original_host,
        user=connection.user if connection.user != user else None,
        port=connection.port if connection.port != port else None,
    )


def given_gateway(connection: Connection | None) -> Connection | str | None:
    """Give the gateway of a connection that somebody named, not one that Fabric has read somewhere."""
    if connection is None or not connection.gateway or connection.gateway == connection.get_gateway():
        return None
    gateway: Connection | str = connection.gateway
    return gateway


def given_timeout(connection: Connection | None) -> int | None:
    """Give the time to connect of a connection, where somebody named it and Fabric has not read it."""
    if connection is None:
        return None
    read = connection.ssh_config.get("connecttimeout", connection.config.timeouts.connect)
    timeout: int | None = connection.connect_timeout
    return timeout if timeout is not None and str(timeout) != str(read) else None


def chain_of(gateway: Connection) -> list[Target]:
    """Give the gateways that lead to a gateway, and itself at the end."""
    host = host_of(gateway)
    before = given_gateway(gateway)
    chain = chain_of(before) if isinstance(before, Connection) else []
    return [*chain, Target(Address(host.name, host.user, host.port), given=gateway)]


def ssh_command(target: Target) -> str:
    """Give the command line with which a person connects to the same machine."""
    address = target.address
    words = ["ssh"]
    words += ["-p", str(address.port)] if address.port else []
    words += ["-J", target.gateway] if target.gateway else []
    return shlex.join([*words, f"{address.user}@{address.name}" if address.user else address.name])


# -- Fabric's configuration --------------------------------------------------------------------------------


def fabric_config(config: object) -> Config:
    """Give Fabric's configuration: that of a `fab`, or what fabric.yaml and FABRIC_... say under an `inv`."""
    if isinstance(config, Config):
        return config
    known: dict[str, Any] = getattr(config, "_config", {})  # Invoke's, as plain dictionaries
    fabric = Config(lazy=True, overrides={name: known[name] for name in FABRICS if name in known})
    fabric.load_base_conf_files()
    fabric.set_project_location(getattr(config, "_project_prefix", None) or Path.cwd())
    fabric.load_project()
    fabric.load_shell_env()
    if not OpenSSH.is_here():
        fabric.load_ssh_config()
    return fabric


def ssh_file(config: Config) -> str:
    """Give the file that OpenSSH is to read in place of the usual ones, `none` for none, "" for those."""
    file = config.ssh_config_path or config._runtime_ssh_path
    if file:
        return str(Path(file).expanduser())
    return "" if config.load_ssh_configs else "none"


def uses_files(config: Config) -> bool:
    """Say whether what a configuration has of OpenSSH's came from files, and not from a program."""
    ours = config.base_ssh_config._config
    if not ours:
        return True
    files = SSHConfig()
    for name in [ssh_file(config)] if ssh_file(config) else [config._user_ssh_path, config._system_ssh_path]:
        path = Path(name).expanduser()
        if path.is_file():
            files.parse(path.read_text("utf-8", "replace").splitlines())
    return bool(files._config == ours)


def paramikos_reading(config: Config, name: str) -> dict[str, list[str]]:
    """Give what Paramiko reads for a host, in the form of `ssh -G`."""
    found = config.base_ssh_config.lookup(name)
    return {
        keyword: [value] if isinstance(value, str) else list(value)
        for keyword, value in found.items()
        if value is not None
    }
