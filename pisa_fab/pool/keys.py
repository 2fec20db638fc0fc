"""Who is who: the key that a host shows, and those that it is shown."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import paramiko
from paramiko.auth_strategy import AuthStrategy
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    PasswordRequiredException,
    SSHException,
)

from pisa_fab.identities import Credentials, KeyFile, agent_keys
from pisa_fab.known_hosts import (
    USER_FILES,
    KnownHosts,
    Verdict,
    explain_changed,
    explain_revoked,
    explain_unknown,
    in_shell,
    remember,
)
from pisa_fab.ssh_config import Settings, real_home

MOST_KEYS = 4  # shown before a password: a server hangs up after six failures by default
# The names under which a kind of key is negotiated, where they are not its own.
NEGOTIATED = {"rsa-sha2-512": "ssh-rsa", "rsa-sha2-256": "ssh-rsa"}


class HostKeyError(SSHException):
    """A host showed a key that is not to be trusted; the message says why, in one line."""


class NoKeyError(AuthenticationException):
    """There was nothing to log in with."""


class TooManyKeysError(AuthenticationException):
    """The host hung up after several keys that it did not take."""


class PasswordRefusedError(AuthenticationException):
    """Neither a key nor the password was taken."""


class HostKeys(paramiko.MissingHostKeyPolicy):
    """What becomes of the key that one host shows. Paramiko itself is told no host keys, and asks about each.

    Attributes:
        kind: of the key that it has shown last, as in known_hosts; "" before.
        accepted: what to tell the person of a key that was new and has been saved, or "".
    """

    def __init__(self, settings: Settings, accept_new: bool, how_to_accept: Sequence[str]) -> None:
        self.settings = settings
        self.accept_new = accept_new or settings.strictness in ("accept-new", "no")
        self.how_to_accept = how_to_accept
        self.files = (*settings.user_known_hosts, *settings.global_known_hosts)
        name = settings.host_key_alias or settings.hostname
        with_port = settings.port != 22 and not settings.host_key_alias
        self.target = f"[{name}]:{settings.port}" if with_port else name
        self.plain = name if with_port else ""
        self.known: KnownHosts | None = None
        self.kind = self.accepted = ""

    def prefer_known(self, transport: paramiko.Transport) -> None:
        """Read the files, and let a transport ask the host for those kinds of key first that are known."""
        names = (self.target, self.plain) if self.plain else (self.target,)
        self.known = KnownHosts.load(self.files).about(*names)
        kinds = self.known.kinds()
        choice = transport.get_security_options()
        choice.key_types = sorted(choice.key_types, key=lambda kind: NEGOTIATED.get(kind, kind) not in kinds)

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Trust the key, or raise HostKeyError."""
        self.kind, self.accepted = key.get_name(), ""
        shown = (self.target, self.kind, key.asbytes())
        known = KnownHosts.load(self.files) if self.known is None else self.known
        found = known.judge(*shown, self.plain)
        if found.verdict is Verdict.UNKNOWN and not self.accept_new:
            raise HostKeyError(explain_unknown(self.how_to_accept, authority=found.authority))
        if found.verdict is Verdict.UNKNOWN and self.settings.user_known_hosts:
            file = self.settings.user_known_hosts[0]
            try:
                found = remember(file, *shown, hash_names=self.settings.hash_known_hosts)
            except OSError as error:
                raise HostKeyError(
                    f"its host key is new; saving it in {in_shell(file)}: {error.strerror}"
                ) from error
            if found.saved:
                self.accepted = f"{key.algorithm_name} {key.fingerprint}"
        if found.verdict is Verdict.REVOKED and found.line is not None:
            raise HostKeyError(explain_revoked(found.line))
        if found.verdict is Verdict.CHANGED and found.line is not None:
            usual = real_home() / Path(USER_FILES[0]).relative_to("~")
            raise HostKeyError(explain_changed(found.line, self.target, usual))


class Keyring:
    """The private keys that were read from files, each once, and those that were unlocked."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.keys: dict[KeyFile, paramiko.PKey] = {}

    def key(self, file: KeyFile, *passphrases: str | None) -> paramiko.PKey:
        """Give the key in a file. Raises PasswordRequiredException, or SSHException for what is no key."""
        with self.lock:
            if file not in self.keys:
                for passphrase in passphrases if file.encrypted else (None,):
                    key = read_key(file, passphrase) if passphrase or not file.encrypted else None
                    if key is not None:
                        self.keys[file] = key
                        return key
                if file.encrypted:
                    raise PasswordRequiredException(str(file.path))
                raise SSHException(f"{file.path} is no private key that can be used here")
            return self.keys[file]

    def fits(self, file: KeyFile, *passphrases: str | None) -> bool:
        """Say whether the key is unlocked, or one of these unlocks it."""
        try:
            self.key(file, *passphrases)
        except SSHException:
            return False
        return True


def read_key(file: KeyFile, passphrase: str | None) -> paramiko.PKey | None:
    """Read a private key; None where the passphrase does not fit, or Paramiko does not know such keys."""
    kinds = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    for kind in kinds:
        if file.kind and file.kind not in kind.identifiers():
            continue
        try:
            key = kind.from_private_key_file(str(file.path), passphrase)
        except (SSHException, OSError, ValueError):
            continue
        certificate = Path(f"{file.path}-cert.pub")
        if certificate.is_file():
            key.load_certificate(str(certificate))
        return key
    return None


class Agent(paramiko.Agent):
    """The agent behind a socket, which IdentityAgent may name."""

    def __init__(self, path: str) -> None:
        paramiko.agent.AgentSSH.__init__(self)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        self._connect(connection)


class Login(AuthStrategy):
    """Shows a host one key after another, as `Credentials.order` has them, and the password at the end."""

    def __init__(self, credentials: Credentials, keyring: Keyring, user: str, key: Any = None) -> None:
        """Make the login of a user; `key` is one that a program gave, which is shown first."""
        super().__init__(ssh_config=None)
        self.credentials, self.keyring, self.user, self.key = credentials, keyring, user, key

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in. Raises AuthenticationException, PasswordRequiredException and SSHException."""
        offered = agent_keys(self.credentials.agent)
        if not offered:
            self._log_in(transport, {})
            return
        agent = Agent(self.credentials.agent)
        try:
            held = {bytes(key.blob): key for key in agent.get_keys()}
            self._log_in(transport, {blob: held[blob] for blob in offered if blob in held})
        finally:
            agent.close()

    def _log_in(self, transport: paramiko.Transport, held: Mapping[bytes, paramiko.PKey]) -> None:
        password = self.credentials.password
        refused: SSHException | None = None
        locked: SSHException | None = None
        try:
            for key in self._keys(held):
                try:
                    if isinstance(key, KeyFile):
                        key = self.keyring.key(key, self.credentials.passphrase, password)
                    if not (more := transport.auth_publickey(self.user, key)):
                        return
                    raise BadAuthenticationType("the key was taken, and more is wanted", more)
                except PasswordRequiredException as error:
                    locked = locked or error
                except BadAuthenticationType:
                    raise
                except SSHException as error:
                    if not transport.is_active():
                        raise (TooManyKeysError() if refused else error) from error
                    refused = error
        except BadAuthenticationType as error:  # no further key will do
            refused = error
        if password is not None:
            try:
                transport.auth_password(self.user, password)
            except AuthenticationException as error:
                raise PasswordRefusedError() from error
        elif locked is not None and (self.credentials.named or refused is None):
            raise locked
        else:
            raise refused or NoKeyError()

    def _keys(self, held: Mapping[bytes, paramiko.PKey]) -> list[Any]:
        given = [self.key] if self.key is not None else []
        order = self.credentials.order(list(held))
        keys = given + [held[source] if isinstance(source, bytes) else source for source in order]
        return keys[:MOST_KEYS] if self.credentials.password is not None else keys
