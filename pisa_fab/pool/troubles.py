"""What Fabric's and Paramiko's exceptions mean to a person: one line, and what helps."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Protocol

from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    ChannelException,
    NoValidConnectionsError,
    PasswordRequiredException,
    SSHException,
)

from pisa_fab.contact import Trouble
from pisa_fab.known_hosts import in_shell
from pisa_fab.link import LinkError
from pisa_fab.pool.keys import HostKeyError, NoKeyError, PasswordRefusedError, TooManyKeysError
from pisa_fab.ssh_config import ProxyCommand

NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
AWAY = (ConnectionRefusedError, NoValidConnectionsError, socket.gaierror, TimeoutError)
TOO_BUSY = "its SSH server refuses for the moment (MaxStartups, PerSourcePenalties); it is called again"
NOT_ALLOWED = 1  # a reason of a gateway (RFC 4254, 5.1)


class Target(Protocol):
    """What is told of the connection that was not made: a `links.Line`."""

    host: str
    port: int
    user: str
    original_host: str
    proxy: ProxyCommand | None


def explain(error: Exception, target: Target) -> LinkError:
    """Say in one line what kept a connection from being made, and what helps against it."""
    silent = isinstance(error, SSHException) and str(error).startswith("Error reading SSH protocol banner")
    # Paramiko has put what happened into the text, or kept it as the context. When nothing was said for as
    # long as connecting may take, it just goes on, and finds that there is no session to go on with.
    is_mute = isinstance(error, SSHException) and str(error) == "No existing session"
    if is_mute or (silent and isinstance(error.__context__, TimeoutError)):
        return LinkError(f"connects at {target.host} port {target.port}, but says nothing", Trouble.AWAY)
    if silent or isinstance(error, EOFError | ConnectionResetError):
        if target.proxy is not None:
            said = target.proxy.complaint() or "it said nothing"
            return LinkError(f"its ProxyCommand does not connect: {said}", Trouble.AWAY)
        return LinkError(TOO_BUSY, Trouble.BUSY)
    if isinstance(error, AWAY) or (isinstance(error, OSError) and error.errno in NO_ROUTE):
        return LinkError(explain_away(error, target), Trouble.AWAY)
    if isinstance(error, ChannelException):
        if error.code == NOT_ALLOWED:
            return LinkError("its gateway lets nobody through (AllowTcpForwarding)", Trouble.PERSON)
        return LinkError(f"its gateway cannot reach {target.host} port {target.port}", Trouble.AWAY)
    for_person = isinstance(error, AuthenticationException | HostKeyError)
    return LinkError(explain_refusal(error, target), Trouble.PERSON if for_person else Trouble.AWAY)


def explain_away(error: Exception, target: Target) -> str:
    """Say what a host that is not there looks like."""
    if isinstance(error, socket.gaierror):
        return f"no machine is known by the name {target.host}"
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in NO_ROUTE):
        return f"does not answer at {target.host} port {target.port}; is it switched on?"
    return f"connection refused at {target.host} port {target.port}; is its SSH server running?"


def explain_refusal(error: Exception, target: Target) -> str:
    """Say what a person has to mend."""
    if isinstance(error, PasswordRequiredException):
        path = Path(str(error))
        usual = path.parent == Path.home() / ".ssh" and path.name.startswith("id_")
        which = "" if usual or not path.is_file() else " " + in_shell(path)
        return f"your private key is encrypted; load it into an agent with: ssh-add{which}"
    if isinstance(error, NoKeyError):
        remedy = f"ssh-keygen -t ed25519 makes one, ssh-copy-id {target.original_host} installs it"
        return f"you have no private key to log in with; {remedy}"
    if isinstance(error, TooManyKeysError):
        return "refuses you after too many keys; name the right one: identity: or IdentityFile"
    if isinstance(error, PasswordRefusedError):
        return f"refuses the key and the password of user {target.user}"
    if isinstance(error, BadAuthenticationType):
        wanted = ", ".join(error.allowed_types) or "nothing"
        return f"lets user {target.user} in with other means than a key: {wanted}"
    if isinstance(error, AuthenticationException):
        return f"refuses the key of user {target.user}; try: ssh-copy-id {target.original_host}"
    return str(error) or type(error).__name__
