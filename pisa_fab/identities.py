"""Private keys and the agent, as far as files and sockets tell of them: which to try, which to unlock.

No Fabric and no Paramiko here: what a key can do, and whether a passphrase fits it, is `pool`'s business.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pisa_fab.errors import UsageError
from pisa_fab.known_hosts import in_shell

AGENT_TIMEOUT = 5.0  # seconds for an agent to list its keys
LIST_KEYS, KEYS_LISTED = 11, 12  # of the agent's protocol
MAGIC = b"openssh-key-v1\0"
TRIES = 3
PEM = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----\s*(.*?)-----END", re.DOTALL)

Ask = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key's file: whether it is encrypted, and its public half, b"" where that cannot be seen."""

    path: Path
    encrypted: bool
    public: bytes = b""

    @property
    def kind(self) -> str:
        """The kind of key, as in known_hosts: `ssh-ed25519`; "" where it cannot be seen."""
        return kind_of(self.public)

    @classmethod
    def look_at(cls, path: Path) -> KeyFile | None:
        """Look at a file; None where there is none that can be read. Anything else is Paramiko's to judge."""
        try:
            text = path.read_text("ascii", "replace")
        except OSError:
            return None
        found = PEM.search(text)
        inside = found[2] if found else ""
        public = public_half(path.with_name(path.name + ".pub"))
        if found and found[1] == "OPENSSH ":
            try:
                cipher, public = read_openssh(base64.b64decode(inside))
            except (binascii.Error, struct.error):
                return cls(path, False, public)
            return cls(path, cipher != b"none", public)
        encrypted = found is not None and (found[1] == "ENCRYPTED " or "Proc-Type: 4,ENCRYPTED" in inside)
        return cls(path, encrypted, public)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one host may be shown.

    Attributes:
        named: private key files that a person named for it, in this order.
        usual: those that ssh tries by itself; of interest only where none was named.
        agent: the socket of the agent, "" for no agent.
        only_named: whether the agent's other keys stay out of it.
        passphrase: that of the configuration, for any of the files.
        password: for the login, and for a key where there is no passphrase.
    """

    named: tuple[Path, ...] = ()
    usual: tuple[Path, ...] = ()
    agent: str = ""
    only_named: bool = False
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are tried."""
        return self.named or self.usual

    def order(self, offered: Sequence[bytes]) -> Iterator[KeyFile | bytes]:
        """Give what to try, in this order; an agent that offers the key of a file stands in for the file.

        What a person named comes first: an agent full of other keys would use up the server's patience.
        """
        files = [file for path in self.files if (file := KeyFile.look_at(path)) is not None]
        sources: list[KeyFile | bytes] = [file.public if file.public in offered else file for file in files]
        mine = {source for source in sources if isinstance(source, bytes)}
        others = [] if self.only_named else [key for key in offered if key not in mine]
        if self.named:
            yield from sources
            yield from others
        else:
            yield from (source for source in sources if isinstance(source, bytes))
            yield from others
            yield from (source for source in sources if isinstance(source, KeyFile))

    def locked(self, offered: Sequence[bytes]) -> list[KeyFile]:
        """Give the encrypted files without which there may be no way in."""
        if self.password is not None:
            return []
        sources = list(self.order(offered))
        files = [source for source in sources if isinstance(source, KeyFile)]
        if not self.named and (len(files) < len(sources) or not all(file.encrypted for file in files)):
            return []  # there is something to try, and what the encrypted ones are for is not known
        return [file for file in files if file.encrypted]


def unlock(files: Iterable[KeyFile], ask: Ask, fits: Callable[[KeyFile, str], bool]) -> None:
    """Ask for the passphrase of each, three times; no answer gives up on that key. Raises UsageError."""
    for file in files:
        for attempt in range(TRIES):
            again = "wrong, once more: " if attempt else ""
            passphrase = ask(f"{again}passphrase of your key {in_shell(file.path)}: ")
            if not passphrase or fits(file, passphrase):
                break
        else:
            raise UsageError(
                f"no passphrase of {TRIES} fits {in_shell(file.path)}",
                f"load it into an agent, which keeps it: ssh-add {in_shell(file.path)}",
            )


# -- formats -----------------------------------------------------------------------------------------------


def kind_of(public: bytes) -> str:
    """Give the kind of a public key: its first field."""
    return strings(public, 1)[0].decode("ascii", "replace") if len(public) > 4 else ""


def public_half(path: Path) -> bytes:
    """Read a .pub file; b"" where there is none."""
    try:
        return base64.b64decode(path.read_text("ascii", "replace").split()[1])
    except (OSError, IndexError, binascii.Error):
        return b""


def read_openssh(data: bytes) -> tuple[bytes, bytes]:
    """Give cipher and public half of a private key in OpenSSH's format. Raises struct.error."""
    if not data.startswith(MAGIC):
        raise struct.error("not OpenSSH's")
    cipher, derivation, options = strings(data[len(MAGIC) :], 3)
    skipped = len(MAGIC) + 12 + len(cipher) + len(derivation) + len(options)
    return cipher, strings(data[skipped + 4 :], 1)[0]  # after the number of keys


def strings(data: bytes, number: int) -> list[bytes]:
    """Take length-prefixed strings from the beginning of some data. Raises struct.error."""
    found = []
    for _ in range(number):
        (size,) = struct.unpack_from(">I", data)
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


# -- the agent ---------------------------------------------------------------------------------------------


def agent_keys(path: str) -> list[bytes]:
    """Give the public halves of the keys that an agent has; none where there is no agent.

    Keys on tokens (sk-...) are left out: nothing here can use them.
    """
    if not path:
        return []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(AGENT_TIMEOUT)
            agent.connect(path)
            agent.sendall(struct.pack(">IB", 1, LIST_KEYS))
            with agent.makefile("rb") as answer:
                (size,) = struct.unpack(">I", answer.read(4))
                data = answer.read(size)
        kind, number = struct.unpack_from(">BI", data)
        listed = strings(data[5:], 2 * number)[::2] if kind == KEYS_LISTED else []  # keys and comments
    except (OSError, struct.error):
        return []
    return [key for key in listed if not kind_of(key).startswith("sk-")]
