"""The known_hosts files, as OpenSSH reads and writes them: which keys a host may show, and saving a new one.

Text only: what a key is and when it is shown is `pool`'s business. Paramiko's own reader gives up on a whole
file at the first line that it does not know, knows no patterns and loses lines when several connections save
at once, so this one reads line by line and writes under a lock. Certificates of hosts are not supported:
lines of authorities trust nobody.

Format: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import hmac
import os
import secrets
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")

REVOKED = "@revoked"
AUTHORITY = "@cert-authority"
# What Paramiko can check. A line with another kind says nothing about the key that the host shows us.
KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # a network file system without them


class Verdict(StrEnum):
    """What the files say of a key that a host shows."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line: host patterns, kind of the key (`ssh-ed25519`), the key, a marker or "", where it stands."""

    patterns: tuple[str, ...]
    kind: str
    key: bytes
    marker: str = ""
    file: Path = Path()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and the line that it rests on.

    `authority` says whether one is named that could vouch for the host, `saved` whether the key is known now.
    """

    verdict: Verdict
    line: KnownKey | None = None
    authority: bool = False
    saved: bool = False


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """All lines of some files."""

    lines: tuple[KnownKey, ...] = ()

    @classmethod
    def load(cls, files: Iterable[Path]) -> KnownHosts:
        """Read these files; one that cannot be read counts as empty."""
        found: list[KnownKey] = []
        for file in files:
            try:
                status = file.stat()
                found.extend(_read(file, status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError:
                continue
        return cls(tuple(found))

    def about(self, *targets: str) -> KnownHosts:
        """Give the lines that are about a host, by one of these names."""
        mine = (line for line in self.lines if any(matches(line.patterns, target) for target in targets))
        return KnownHosts(tuple(mine))

    def kinds(self) -> list[str]:
        """Give the kinds of the keys that are known: those that a host is to be asked for first."""
        return [line.kind for line in self.lines if line.marker == "" and line.kind in KINDS]

    def judge(self, target: str, kind: str, key: bytes, plain: str = "") -> Finding:
        """Say what to think of a key. `target` is `name` or `[name]:port`, or the host's alias.

        `plain` is the name without the port: its lines count, too, for a key that they have.
        """
        mine = [line for line in self.lines if matches(line.patterns, target)]
        others = [line for line in self.lines if plain and matches(line.patterns, plain)]
        same = [line for line in (*mine, *others) if (line.kind, line.key) == (kind, key)]
        for line in same:
            if line.marker == REVOKED:  # whatever another line says
                return Finding(Verdict.REVOKED, line)
        for line in same:
            if not line.marker:
                return Finding(Verdict.KNOWN, line)
        for line in mine:
            if not line.marker and line.kind in KINDS:
                return Finding(Verdict.CHANGED, line)
        return Finding(Verdict.UNKNOWN, authority=any(line.marker == AUTHORITY for line in mine))


@lru_cache(maxsize=16)
def _read(file: Path, inode: int, size: int, changed: int) -> tuple[KnownKey, ...]:
    # All hosts of a pool want the same files at once, and they may be long.
    return tuple(parse(file.read_text("utf-8", "replace").splitlines(), file))


def parse(lines: Iterable[str], file: Path = Path()) -> Iterator[KnownKey]:
    """Read the lines that are understood; comments and broken lines give nothing."""
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", REVOKED, AUTHORITY):
            continue
        try:
            key = base64.b64decode(fields[2], validate=True)
        except binascii.Error:
            continue
        yield KnownKey(tuple(fields[0].split(",")), fields[1], key, marker, file, number)


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
    return hmac.compare_digest(_digest(salt, target), digest)


def _digest(salt: bytes, target: str) -> bytes:
    return hmac.digest(salt, target.lower().encode("utf-8"), "sha1")


def hashed(target: str) -> str:
    """Give a name as HashKnownHosts has it written."""
    salt = secrets.token_bytes(20)
    parts = (base64.b64encode(part).decode("ascii") for part in (salt, _digest(salt, target)))
    return "|1|" + "|".join(parts)


# -- saving ------------------------------------------------------------------------------------------------


def remember(file: Path, target: str, kind: str, key: bytes, *, hash_names: bool = False) -> Finding:
    """Save the key of a host, unless the file has come to know one: the finding says so. Raises OSError.

    Many threads and processes may do so at once. A file that is no regular one (/dev/null) keeps nothing.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(file) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return Finding(Verdict.UNKNOWN)
        size = os.fstat(descriptor).st_size
        text = os.pread(descriptor, size, 0).decode("utf-8", "replace")
        found = KnownHosts(tuple(parse(text.splitlines(), file))).judge(target, kind, key)
        if found.verdict is Verdict.UNKNOWN:
            name = hashed(target) if hash_names else target
            line = f"{name} {kind} {base64.b64encode(key).decode('ascii')}\n"
            data = ("\n" * (text != "" and not text.endswith("\n")) + line).encode("utf-8")
            if os.write(descriptor, data) != len(data):  # half a line is worse than none
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(found, saved=True)
        return found


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    # The lock is on the file itself: flock, because a lock of fcntl would end when any thread of this process
    # that has read the file closes it. ssh-keygen puts another file in its place: then again, with that one.
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if _is_still(file, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# -- what a person reads -----------------------------------------------------------------------------------


def in_shell(path: Path) -> str:
    """Give a path as a person types it, short where it is in the home: `~/.ssh/known_hosts`."""
    if path.is_relative_to(Path.home()):
        return "~/" + shlex.quote(str(path.relative_to(Path.home())))
    return shlex.quote(str(path))


def explain_changed(line: KnownKey, target: str, default_file: Path) -> str:
    """Say that a host shows another key than the one that is known, and how to forget that one."""
    if any(set(pattern) & set("*?!") for pattern in line.patterns):  # ssh-keygen leaves these alone
        remedy = f"look at line {line.line} of {in_shell(line.file)}"
    elif not os.access(line.file, os.W_OK):
        remedy = f"ask the administrator for line {line.line} of {in_shell(line.file)}"
    else:
        where = "" if line.file == default_file else f" -f {in_shell(line.file)}"
        remedy = f"forget the old key with: ssh-keygen -R {shlex.quote(target)}{where}"
    return f"its host key has CHANGED: somebody may be listening; if you know why, {remedy}"


def explain_revoked(line: KnownKey) -> str:
    """Say that a host shows a key that somebody has revoked."""
    return (
        f"its host key has been REVOKED (line {line.line} of {in_shell(line.file)}): "
        "it may be another machine in its place; ask the administrator"
    )


def explain_unknown(commands: Sequence[str], *, authority: bool) -> str:
    """Say that nobody has accepted a host's key yet, and how to do so."""
    accept = " or ".join(commands)
    if authority:
        why = "certificates of hosts are not supported"
        return f"its host key is not known here ({why}); accept it with: {accept}"
    return f"its host key is not known here; look at it and accept it with: {accept}"
