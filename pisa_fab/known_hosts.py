"""The user's known_hosts files, as OpenSSH reads them: which keys a host may show.

Text only: what a key is, and what happens when a host shows another one, is `pool`'s business. Paramiko's own
reader gives up on a whole file at the first line that it does not know, and knows no patterns, so this one
reads line by line. Certificate authorities are not supported: their lines are passed over.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line: host patterns, type of the key (`ssh-ed25519`), the key itself, and whether it is revoked."""

    patterns: tuple[str, ...]
    kind: str
    key: bytes
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """All lines of all files."""

    lines: tuple[KnownKey, ...] = ()

    @classmethod
    def load(cls) -> KnownHosts:
        """Read the files of the user and of the system; one that cannot be read counts as empty."""
        found: list[KnownKey] = []
        for name in USER_FILES + SYSTEM_FILES:
            try:
                text = Path(name).expanduser().read_text("utf-8", "replace")
            except OSError:
                continue
            found.extend(parse(text.splitlines()))
        return cls(tuple(found))

    def keys_of(self, target: str) -> list[tuple[str, bytes]]:
        """Give the keys that a host may show, as (type, key); `target` is `name` or `[name]:port`.

        A revoked key is never among them, whatever another line says.
        """
        mine = [line for line in self.lines if matches(line.patterns, target)]
        revoked = {line.key for line in mine if line.revoked}
        return [(line.kind, line.key) for line in mine if line.key not in revoked]


def parse(lines: Iterable[str]) -> Iterator[KnownKey]:
    """Read the lines that are understood; comments, authorities and broken lines give nothing."""
    for line in lines:
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        try:
            key = base64.b64decode(fields[2], validate=True)
        except binascii.Error:
            continue
        yield KnownKey(tuple(fields[0].split(",")), fields[1], key, bool(marker))


def matches(patterns: tuple[str, ...], target: str) -> bool:
    """Say whether a line is about this host; a `!pattern` that fits excludes it, whatever else fits."""
    found = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(pattern, target)
        elif pattern.startswith("!"):
            if _fits(pattern[1:], target):
                return False
        else:
            found = found or _fits(pattern, target)
    return found


def _fits(pattern: str, target: str) -> bool:
    # Brackets belong to `[name]:port` here; only * and ? are wild.
    return fnmatchcase(target.lower(), pattern.lower().replace("[", "[[]"))


def _is_hash_of(pattern: str, target: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in pattern.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, target.encode("utf-8"), hashlib.sha1).digest(), digest)
