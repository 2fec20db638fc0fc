"""The pool: a Fabric `ThreadingGroup` whose connections each hold a conversation with a worker.

The only module that imports Fabric and Paramiko, and the place for everything that is particular to them: how
a connection is configured, how long each step may take, what happens to an unknown host key, and what their
exceptions mean to a person.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import paramiko
from fabric import Config, Connection, ThreadingGroup
from fabric.exceptions import GroupException
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    NoValidConnectionsError,
    PasswordRequiredException,
    SSHException,
)

from pisa_fab.contact import Trouble
from pisa_fab.known_hosts import KnownHosts
from pisa_fab.link import STDERR_BYTES, Inbox, Link, LinkError, LocalLink, Stream
from pisa_fab.model import Host

# Seconds that each step of opening a connection may take (docs/cluster.md says what a user sees then).
CONNECT_TIMEOUT = 10
BANNER_TIMEOUT = 15
AUTH_TIMEOUT = 30
CHANNEL_TIMEOUT = 15
EXIT_STATUS_TIMEOUT = 2.0
KEEPALIVE_IDLE = 15
UNANSWERED_TIMEOUT = 30  # seconds that sent data may stay unacknowledged by the host's kernel

NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
TOO_BUSY = "its SSH server refuses for the moment (MaxStartups, PerSourcePenalties); it is called again"


class Pool(ThreadingGroup):
    """The links to all hosts, served side by side, one thread each."""

    @classmethod
    def over_ssh(cls, hosts: Iterable[Host], config: object = None) -> Pool:
        """Make the links to these hosts; nothing is opened yet.

        `config` is the configuration of the context: Fabric's has key files, passwords and timeouts of the
        command line. Any other (Invoke's) knows nothing of connections, and Fabric's own files are read.
        """
        base = config if isinstance(config, Config) else Config()
        gateways: dict[str, Gateway] = {}
        pool: Pool = cls.from_connections([SSHLink(host, base, gateways) for host in hosts])
        return pool

    @classmethod
    def on_this_machine(cls, name: str) -> Pool:
        """Make a pool of one: this machine, over pipes."""
        pool: Pool = cls.from_connections([LocalLink(name)])
        return pool

    def links(self) -> dict[str, Link]:
        """Give the links by the names of their hosts."""
        return {link.name: link for link in self}

    def begin(self, inbox: Inbox) -> None:
        """Serve every link in threads of their own, and return at once. What they learn goes to the inbox.

        A link connects when it is called, and as often (see `Link.call`).
        """
        Thread(target=self._serve_all, args=(inbox,), name="pisa_fab-pool", daemon=True).start()

    def _serve_all(self, inbox: Inbox) -> None:
        # `Link.serve` reports what it can foresee to the inbox itself. What is left is a bug: its traceback
        # is shown by the thread's hook, and the other links go on, as Fabric's groups do.
        try:
            self._do("serve", inbox)
        except GroupException as group:
            for error in group.result.failed.values():
                raise error from None

    def close(self) -> None:
        """Close every connection for good, those to gateways last. Never blocks."""
        for link in self:
            link.retire()
            link.disconnect()
        for link in self:
            if isinstance(link, SSHLink) and link.shared_gateway is not None:
                link.shared_gateway.connection.client.close()


class UnknownHostKeyError(SSHException):
    """A host showed a key that no known_hosts file has."""


class RefuseUnknown(paramiko.MissingHostKeyPolicy):
    """Refuse a host whose key nobody has accepted: it may be another machine in its place."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Raise UnknownHostKeyError, always."""
        name, _, port = hostname.removeprefix("[").partition("]:")
        command = f"ssh -p {port} {name}" if port else f"ssh {name}"
        raise UnknownHostKeyError(f"its host key is not known here; look at it and accept it with: {command}")


class Gateway:
    """One connection that many links pass through: opened once, first, by whoever comes first."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lock = Lock()
        trust_nobody(connection)

    def open(self) -> None:
        """Open it, unless it is open. Raises what Fabric and Paramiko raise."""
        with self.lock:
            if not self.connection.is_connected:
                trust_known_hosts(self.connection)
                self.connection.open()


class SSHLink(Link, Connection):
    """A worker on a host of the pool, over one channel of one connection."""

    # See Link: names that are not attributes of the class would become configuration.
    spec: Host = Host("")
    shared_gateway: Gateway | None = None

    def __init__(self, host: Host, base: Config, gateways: dict[str, Gateway]) -> None:
        # A configuration of its own for each: Fabric writes key files into the one it is given.
        super().__init__(
            host.name,
            user=host.user,
            port=host.port,
            gateway=host.gateway,
            config=base.clone(),
            connect_kwargs=connect_kwargs(host, base),
            connect_timeout=base.timeouts.connect or CONNECT_TIMEOUT,
        )
        self.name = host.name
        self.spec = host
        self.outbox = SimpleQueue()
        self.orders = SimpleQueue()
        self.stopped_because = ""
        self.shared_gateway = self._share_gateway(host, base, gateways)
        trust_nobody(self)

    def _share_gateway(self, host: Host, base: Config, gateways: dict[str, Gateway]) -> Gateway | None:
        # Thirty connections to one gateway at once exceed its MaxStartups, so all links share one.
        if host.gateway is not None:
            self.gateway = Connection(host.gateway, config=base.clone())
        if not isinstance(self.gateway, Connection):
            return None  # none, or a ProxyCommand
        key = repr(self.gateway)
        shared = gateways.setdefault(key, Gateway(self.gateway))
        self.gateway = shared.connection
        return shared

    def python(self) -> str:
        """Give the interpreter that the cluster file names for the worker."""
        return self.spec.python

    def connect(self, command: str) -> Stream:
        """Open the connection and one channel on it, and run the command there. Raises LinkError."""
        try:
            if self.shared_gateway is not None:
                self.shared_gateway.open()
            trust_known_hosts(self)
            self.open()
            channel = self.transport.open_session(timeout=CHANNEL_TIMEOUT)
            channel.exec_command(command)
        except (SSHException, OSError, EOFError) as error:
            raise explain(error, self) from error
        return ChannelStream(channel)

    def disconnect(self) -> None:
        """Close the connection without waiting for anything."""
        # Connection.close() would leave a half-open client alone; the client's own does not.
        self.client.close()


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


def connect_kwargs(host: Host, base: Config) -> dict[str, Any]:
    """Give what Paramiko's client is told beyond host, user and port."""
    known: dict[str, Any] = dict(base.connect_kwargs)
    known.setdefault("banner_timeout", BANNER_TIMEOUT)
    known.setdefault("auth_timeout", AUTH_TIMEOUT)
    known.setdefault("channel_timeout", CHANNEL_TIMEOUT)
    known["transport_factory"] = make_transport
    if host.identity is not None:
        known["key_filename"] = [str(host.identity)]
    return known


def make_transport(connection: socket.socket, **options: Any) -> paramiko.Transport:
    """Make a transport whose socket sends small messages at once and notices a host that is gone."""
    if isinstance(connection, socket.socket):  # a gateway's channel has no options
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_TIMEOUT * 1000)
    transport = paramiko.Transport(connection, **options)
    choice = transport.get_security_options()
    # Paramiko computes the others' checksums in Python; these need none. OpenSSH prefers them, too.
    choice.ciphers = sorted(choice.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport


def trust_nobody(connection: Connection) -> None:
    """Replace Fabric's policy, which trusts any host key."""
    connection.client.set_missing_host_key_policy(RefuseUnknown())


def trust_known_hosts(connection: Connection) -> None:
    """Let a connection trust what the user's known_hosts say now; somebody may have accepted a key."""
    target = connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"
    trusted = connection.client.get_host_keys()
    trusted.clear()
    for kind, data in KnownHosts.load().keys_of(target):
        try:
            trusted.add(target, kind, paramiko.PKey.from_type_string(kind, data))
        except (paramiko.UnknownKeyType, SSHException):
            continue  # a kind of key that Paramiko cannot check; the host will be asked for another kind


def explain(error: Exception, link: Connection) -> LinkError:
    """Say in one line what kept a connection from being made, and what helps against it."""
    away = (ConnectionRefusedError, NoValidConnectionsError, socket.gaierror, TimeoutError)
    if isinstance(error, SSHException) and str(error).startswith("Error reading SSH protocol banner"):
        # Paramiko has put what happened into the text, or kept it as the context.
        if isinstance(error.__context__, TimeoutError):
            return LinkError(f"connects at {link.host} port {link.port}, but says nothing", Trouble.AWAY)
        return LinkError(TOO_BUSY, Trouble.BUSY)
    if isinstance(error, EOFError | ConnectionResetError):
        return LinkError(TOO_BUSY, Trouble.BUSY)
    if isinstance(error, away) or (isinstance(error, OSError) and error.errno in NO_ROUTE):
        return LinkError(explain_away(error, link), Trouble.AWAY)
    for_person = (AuthenticationException, BadHostKeyException, UnknownHostKeyError)
    trouble = Trouble.PERSON if isinstance(error, for_person) else Trouble.AWAY
    return LinkError(explain_refusal(error, link), trouble)


def explain_away(error: Exception, link: Connection) -> str:
    """Say what a host that is not there looks like."""
    if isinstance(error, socket.gaierror):
        return f"no machine is known by the name {link.host}"
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in NO_ROUTE):
        return f"does not answer at {link.host} port {link.port}; is it switched on?"
    return f"connection refused at {link.host} port {link.port}; is its SSH server running?"


def explain_refusal(error: Exception, link: Connection) -> str:
    """Say what a person has to mend."""
    if isinstance(error, BadHostKeyException):
        return (
            f"its host key has CHANGED: somebody may be listening; if you know why, "
            f"forget the old key with: ssh-keygen -R '{error.hostname}'"
        )
    if isinstance(error, PasswordRequiredException):
        return "your private key is encrypted; load it into an agent with: ssh-add"
    if isinstance(error, AuthenticationException):
        return f"refuses the key of user {link.user}; try: ssh-copy-id {link.original_host}"
    return str(error) or type(error).__name__
