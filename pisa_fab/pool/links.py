"""The connections: to hosts, each with a conversation with a worker, and to the gateways on the way there."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import paramiko
from fabric import Config, Connection, ThreadingGroup
from fabric.exceptions import GroupException
from paramiko.ssh_exception import SSHException

from pisa_fab.contact import Trouble
from pisa_fab.link import STDERR_BYTES, Inbox, Link, LinkError, LocalLink, Stream, worker_parts
from pisa_fab.model import Host
from pisa_fab.pool.keys import HostKeys
from pisa_fab.pool.troubles import explain
from pisa_fab.ssh_config import ProxyCommand, Settings

# Seconds that each step of opening a connection may take (docs/cluster.md says what a user sees then).
CONNECT_TIMEOUT = 10
BANNER_TIMEOUT = 15
AUTH_TIMEOUT = 30
CHANNEL_TIMEOUT = 15
EXIT_STATUS_TIMEOUT = 5.0
KEEPALIVE_IDLE = 15
UNANSWERED_TIMEOUT = 30  # seconds that sent data may stay unacknowledged by the host's kernel

# What goes wrong is told by exceptions; Paramiko's tracebacks of it are for who asks for them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class LinkGroup(ThreadingGroup):
    """Links to hosts, served side by side, one thread each. Made by `Access.links`."""

    @classmethod
    def on_this_machine(cls, name: str) -> LinkGroup:
        """Make a group of one: this machine, over pipes."""
        group: LinkGroup = cls.from_connections([LocalLink(name)])
        return group

    def links(self) -> dict[str, Link]:
        """Give the links by the names of their hosts."""
        return {link.name: link for link in self}

    def begin(self, inbox: Inbox) -> None:
        """Serve every link in threads of their own, and return at once. What they learn goes to the inbox.

        A link connects when it is called, and as often (see `Link.call`).
        """
        Thread(target=self._all, args=("serve", inbox), name="pisa_fab-pool", daemon=True).start()

    def visit(self, visitor: Callable[[Link], None]) -> None:
        """Have every link visited in a thread of its own, and return at once. The visitor raises nothing."""
        Thread(target=self._all, args=("visit", visitor), name="pisa_fab-visits", daemon=True).start()

    def _all(self, method: str, given: object) -> None:
        worker_parts()  # once, before all links ask for it at the same time
        # Links tell what they can foresee by themselves. What is left is a bug: its traceback is shown by the
        # thread's hook, and the other links go on, as Fabric's groups do.
        try:
            self._do(method, given)
        except GroupException as group:
            for error in group.result.failed.values():
                raise error from None

    def close(self) -> None:
        """Close every connection for good, those to gateways last. Never blocks."""
        for link in self:
            link.retire()
            link.disconnect()
        for link in self:
            gateway = link.shared_gateway if isinstance(link, SSHLink) else None
            while gateway is not None:
                gateway.line.hang_up()
                gateway = gateway.line.shared_gateway


@dataclass(frozen=True)
class Route:
    """How to get to one machine.

    Attributes:
        name: what the user calls it.
        settings: where it is and what its key is checked with.
        timeout: seconds for the network to connect.
        options: what Paramiko's client is told beyond that: the login, for one.
        host_keys: what becomes of the key that it shows.
        via: a gateway, a ProxyCommand, or None for the network itself.
        broken: why it cannot be connected to at all, or "".
    """

    name: str
    settings: Settings
    timeout: int
    options: Mapping[str, Any]
    host_keys: HostKeys
    via: Gateway | str | None = None
    broken: str = ""


class Line(Connection):
    """A connection that goes by a route."""

    # Names that are not attributes of the class would become keys of the configuration.
    shared_gateway: Gateway | None = None
    proxy: ProxyCommand | None = None

    def __init__(self, route: Route, config: Config) -> None:
        """Make it, with a configuration of its own: Fabric writes key files into the one it is given."""
        self._set(route=route)
        options = {
            "banner_timeout": BANNER_TIMEOUT,
            "auth_timeout": AUTH_TIMEOUT,
            "channel_timeout": CHANNEL_TIMEOUT,
            **route.options,
            "transport_factory": self._make_transport,
        }
        gateway = route.via.line if isinstance(route.via, Gateway) else route.via
        super().__init__(
            route.name,
            user=route.settings.user,
            port=route.settings.port,
            gateway=gateway or False,  # Fabric looks for one by itself where it is told None
            config=config.clone(),
            connect_kwargs=options,
            connect_timeout=route.timeout,
        )
        self.host = route.settings.hostname
        self.shared_gateway = route.via if isinstance(route.via, Gateway) else None
        self.client.set_missing_host_key_policy(route.host_keys)  # in place of Fabric's, which trusts any key

    def __setattr__(self, name: str, value: object) -> None:
        # Invoke's way to tell an attribute from a key of the configuration goes through all names there are.
        if hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def reach(self) -> None:
        """Open the gateway, unless it is open, and then this. Raises LinkError."""
        if self.route.broken:
            raise LinkError(self.route.broken, Trouble.PERSON)
        if self.shared_gateway is not None:
            self.shared_gateway.open()
        try:
            self.open()
        except (SSHException, OSError, EOFError) as error:
            raise explain(error, self) from error

    def open_gateway(self) -> Any:
        """Give what carries the connection, as Fabric's does; a ProxyCommand is run as OpenSSH runs it."""
        if not isinstance(self.gateway, str):
            return GatewaySocket(super().open_gateway())
        self.proxy = ProxyCommand(self.gateway)
        return self.proxy.socket

    def hang_up(self) -> None:
        """Close it without waiting for anything."""
        # Connection.close() would leave a half-open client alone; the client's own does not.
        self.client.close()
        if self.proxy is not None:
            self.proxy.close()

    def _make_transport(self, connection: Any, **options: Any) -> paramiko.Transport:
        transport = make_transport(connection, **options)
        self.route.host_keys.prefer_known(transport)
        return transport


class GatewaySocket:
    """The channel of a gateway, as the socket of a connection behind it.

    Where the gateway is gone, Paramiko's own would complain when it is closed, in whichever thread does that.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        """Close the channel, and tell the gateway so if it is there."""
        with suppress(SSHException, OSError, EOFError):
            self._channel.close()


@dataclass(eq=False)
class Gateway:
    """One connection that many links pass through: opened once, first, by whoever comes first."""

    line: Line
    lock: Lock = field(default_factory=Lock)
    tries: int = 0
    error: LinkError | None = None  # of the last try

    def open(self) -> None:
        """Open it, unless it is open. Raises LinkError, to all who have waited for the same try."""
        tries = self.tries
        with self.lock:
            if self.line.is_connected:
                return
            if self.tries != tries and self.error is not None:
                raise LinkError(str(self.error), self.error.trouble)
            self.tries, self.error = self.tries + 1, None
            try:
                self.line.reach()
            except LinkError as error:
                self.line.hang_up()
                self.error = LinkError(f"gateway {self.line.route.name}: {error}", error.trouble)
                raise self.error from error


class SSHLink(Link, Line):
    """A worker on a host of the pool, over one channel of one connection."""

    spec: Host = Host("")  # see Link: every attribute has a value in the class

    def __init__(self, host: Host, route: Route, config: Config) -> None:
        super().__init__(route, config)
        self.name = host.name
        self.spec = host
        self.outbox = SimpleQueue()
        self.orders = SimpleQueue()

    def python(self) -> str:
        """Give the interpreter that the cluster file names for the worker."""
        return self.spec.python

    def connect(self, command: str) -> Stream:
        """Open the connection and one channel on it, and run the command there. Raises LinkError."""
        try:
            self.reach()
            channel = self.transport.open_session(timeout=CHANNEL_TIMEOUT)
            channel.exec_command(command)
        except (SSHException, OSError, EOFError) as error:
            raise explain(error, self) from error
        finally:
            self.server_key = self.route.host_keys.kind
            self.accepted = self.route.host_keys.accepted
        return ChannelStream(channel)

    def disconnect(self) -> None:
        """Close the connection without waiting for anything."""
        self.hang_up()


class ChannelStream:
    """The channel of a session on a host."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.channel = channel

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end."""
        data: bytes = self.channel.recv(1 << 16)
        return data

    def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        self.channel.sendall(data)

    def exit_status(self) -> int | None:
        """Give the exit status, which follows the end of output; None where the connection broke."""
        known = self.channel.status_event.wait(EXIT_STATUS_TIMEOUT)
        status: int = self.channel.exit_status  # -1 where the connection broke before one came
        return status if known and status >= 0 else None

    def complaint(self) -> str:
        """Give the end of what came over standard error."""
        pieces = []
        while self.channel.recv_stderr_ready():
            pieces.append(self.channel.recv_stderr(1 << 16))
        return b"".join(pieces)[-STDERR_BYTES:].decode("utf-8", "replace").strip()


def make_transport(connection: Any, **options: Any) -> paramiko.Transport:
    """Make a transport whose socket sends small messages at once and notices a host that is gone."""
    # A gateway's channel has no options, and the socket of a ProxyCommand others.
    if isinstance(connection, socket.socket) and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_TIMEOUT * 1000)
    transport = paramiko.Transport(connection, **options)
    choice = transport.get_security_options()
    # Paramiko computes the others' checksums in Python; these need none. OpenSSH prefers them, too.
    choice.ciphers = sorted(choice.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport
