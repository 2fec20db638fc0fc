"""What `check` found out about the hosts, what is wrong with them, and what helps; pure.

`check` makes the reports, `check_table` shows them. Reasons are worded where the trouble is met, in `link`,
`pool`, `worker` and `check`; here they are recognised by how they begin, so that the table has two words and
a remedy for each, and hosts that have the same trouble are one entry.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")

OK = "ok"
KEY_REFUSED = "key refused"
NO_KEY = "no key"

CLOCK_TOLERANCE = 2.0  # seconds
LEAST_FREE = 1 << 30  # bytes
LEAST_FREE_SHARE = 0.05  # of the file system
MOST_QUOTA_SHARE = 0.95
OLDEST_PYTHON = (3, 8)  # that the worker runs on


@dataclass(frozen=True, slots=True)
class HostReport:
    """What is known of a host. None and "" stand for what could not be found out.

    Attributes:
        host, slots: as in the cluster file.
        verdict: `ok`, or in two words what keeps the host from working.
        reason: the same in one line; "" where the verdict is `ok`.
        connect_ms: how long it took to connect and log in, in milliseconds.
        key: the kind of key that the host showed: `ssh-ed25519`.
        python: version of the venv's Python, or, where there is no venv, of the one that runs the worker.
        head_python: version of the venv's Python on this PC.
        sees: whether each sees what the other writes into the folder of the run.
        free, size: bytes on the file system of that folder.
        quota_used, quota_limit: bytes, where the user has a quota there.
        cores: that may be used.
        load: the average of the last minute.
        people: the names of those who are logged in.
        clock_offset: how many seconds its clock is ahead of ours.
    """

    host: str
    slots: int
    verdict: str = OK
    reason: str = ""
    connect_ms: float | None = None
    key: str = ""
    python: str = ""
    head_python: str = ""
    sees: bool | None = None
    free: int | None = None
    size: int | None = None
    quota_used: int | None = None
    quota_limit: int | None = None
    cores: int | None = None
    load: float | None = None
    people: tuple[str, ...] | None = None
    clock_offset: float | None = None

    @property
    def can_work(self) -> bool:
        """Whether nothing keeps it from working."""
        return self.verdict == OK

    @property
    def has_other_python(self) -> bool:
        """Whether its Python is not that of this PC."""
        return bool(self.python and self.head_python and self.python != self.head_python)

    @property
    def has_wrong_clock(self) -> bool:
        """Whether its clock is wrong, or ours is."""
        return self.clock_offset is not None and abs(self.clock_offset) > CLOCK_TOLERANCE

    @property
    def has_full_disk(self) -> bool:
        """Whether outputs may find no room on it."""
        if self.free is None or self.size is None:
            return False
        return self.free < LEAST_FREE or self.free < LEAST_FREE_SHARE * self.size

    @property
    def has_used_quota(self) -> bool:
        """Whether the user's own share of the disk is nearly used."""
        if self.quota_used is None or self.quota_limit is None:
            return False
        return self.quota_used > MOST_QUOTA_SHARE * self.quota_limit

    @property
    def is_busy(self) -> bool:
        """Whether it has more to do already than it has cores."""
        return self.cores is not None and self.load is not None and self.load > self.cores


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to know, the hosts that it is about, and what to do."""

    hosts: tuple[str, ...]
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A kind of trouble.

    Attributes:
        begins: how its reasons begin, a pattern.
        verdict: two words for the table.
        remedy: what to do; `{install}` and `{accept}` are commands, `{host}` is the first of the hosts. Where
            it is "", the reason says it behind a semicolon.
    """

    begins: str
    verdict: str
    remedy: str = ""


ADMINISTRATOR = "tell the administrator"
LOOK = "look at hosts: in the cluster file"
TROUBLES = (
    Trouble("gateway |its gateway|its ProxyCommand", "no way there", "look at the gateway: ssh -v {host}"),
    Trouble("ssh cannot say how", "ssh config", "look at ~/.ssh/config: ssh -G {host}"),
    Trouble("no machine is known", "no such name", LOOK),
    Trouble("does not answer", "no answer", f"switch it on, or {LOOK}"),
    Trouble("connection refused", "SSH off", f"look at port: in the cluster file, or {ADMINISTRATOR}"),
    Trouble("connects .*says nothing", "SSH hangs", ADMINISTRATOR),
    Trouble("its SSH server refuses", "too busy", "check again in a minute"),
    Trouble("its host key is not known", "new host key", "{accept}"),
    Trouble("its host key is new", "new host key"),
    Trouble("its host key has CHANGED", "key CHANGED"),
    Trouble("its host key has been REVOKED", "key REVOKED"),
    Trouble("refuses the key", KEY_REFUSED, "{install}, or: ssh-copy-id {host}"),
    Trouble("refuses you after too many keys", "too many keys"),
    Trouble("you have no private key", NO_KEY, "ssh-keygen -t ed25519, then {install}"),
    Trouble("your private key is encrypted", "key locked"),
    Trouble("lets user .* in with other", "no key login", ADMINISTRATOR),
    Trouble("no answer within", "hangs", ADMINISTRATOR),
    Trouble("connection lost", "link lost", "check again"),
    Trouble("no .* on this host", "no Python"),
    Trouble("the worker did not start", "no worker", "try: ssh {host} python3 --version"),
    Trouble("Python .* is too old", "old Python", "name a newer one with python: in the cluster file"),
    Trouble("no such folder here", "no folder", f"its shared home is not mounted: {ADMINISTRATOR}"),
    Trouble("does not see", "not shared", f"its home is another one: {ADMINISTRATOR}"),
    Trouble("what it writes", "not shared", f"its home is another one: {ADMINISTRATOR}"),
    Trouble("cannot write", "read only", f"look at user: in the cluster file, or {ADMINISTRATOR}"),
    Trouble("no such venv here", "no venv", "make the venv in the shared home, of a Python all hosts have"),
    Trouble("the venv's Python", "venv broken", "make the venv anew, of a Python all hosts have"),
)
ANY_TROUBLE = Trouble("", "failed")


def trouble_of(reason: str) -> Trouble:
    """Give the kind of trouble that a reason tells of."""
    return next((trouble for trouble in TROUBLES if re.match(trouble.begins, reason)), ANY_TROUBLE)


def remedy_of(reports: Sequence[HostReport]) -> str:
    """Say what helps hosts that have the same trouble."""
    first = reports[0]
    tip = first.reason.partition("; ")[2]
    for_one = f"for {first.host}: {tip}" if tip and len(reports) > 1 else tip
    return trouble_of(first.reason).remedy or for_one or "try: ssh {host}"


def what_is_common(reason: str) -> str:
    """Give a reason without what is different on every host, and without the tip at its end."""
    what = reason.partition("; ")[0]
    return re.sub(r" at \S+ port \d+,?", "", what)


def problems(reports: Sequence[HostReport]) -> list[Entry]:
    """Give what keeps hosts from working; hosts that have the same trouble are together."""
    bad = [report for report in reports if not report.can_work]
    groups = grouped(bad, lambda report: (report.verdict, what_is_common(report.reason)))
    return [
        Entry(tuple(report.host for report in group), what, remedy_of(group))
        for (_, what), group in groups.items()
    ]


def grouped(reports: Iterable[HostReport], key: Callable[[HostReport], K]) -> dict[K, list[HostReport]]:
    """Put reports together that have the same key, in the order of the first of each."""
    groups: dict[K, list[HostReport]] = {}
    for report in reports:
        groups.setdefault(key(report), []).append(report)
    return groups


# -- warnings -----------------------------------------------------------------------------------------------


def warnings(reports: Sequence[HostReport]) -> list[Entry]:
    """Give what does not keep hosts from working, but may spoil results or disturb people."""
    able = [report for report in reports if report.can_work]
    return [*other_pythons(able), *wrong_clocks(able), *full_disks(able), *used_quotas(able), *busy(able)]


def other_pythons(reports: Sequence[HostReport]) -> Iterator[Entry]:
    """Name the hosts whose Python is not that of this PC, or, if that is not known, of most hosts."""
    known = [report for report in reports if report.python]
    common = Counter(report.python for report in known).most_common(1)
    for version, group in grouped(known, lambda report: report.python).items():
        here = group[0].head_python
        wanted = here or common[0][0]
        if version != wanted:
            what = f"Python {version}; {'this PC' if here else 'most hosts'}: {wanted}"
            yield entry(group, what, "results may differ; use one Python that all hosts have")


def wrong_clocks(reports: Sequence[HostReport]) -> Iterator[Entry]:
    """Name the hosts whose clock is wrong, or ours is."""
    wrong = [report for report in reports if report.has_wrong_clock]
    if wrong:
        most = max((report.clock_offset or 0.0 for report in wrong), key=abs)
        upto = "up to " if len(wrong) > 1 else ""
        what = f"clock {upto}{abs(most):.1f} s {'ahead of' if most > 0 else 'behind'} this PC's"
        yield entry(wrong, what, "no run minds; times of files look wrong, so tell the administrator")


def full_disks(reports: Sequence[HostReport]) -> Iterator[Entry]:
    """Name the hosts on which outputs may find no room."""
    full = [report for report in reports if report.has_full_disk]
    if full:
        least = min(full, key=lambda report: report.free or 0)
        share = (least.free or 0) / (least.size or 1)
        yield entry(full, f"only {size_text(least.free or 0)} free ({share:.0%} of the disk)", "make room")


def used_quotas(reports: Sequence[HostReport]) -> Iterator[Entry]:
    """Name the hosts on which the user's own share of the disk is nearly used."""
    used = [report for report in reports if report.has_used_quota]
    if used:
        worst = used[0]
        what = f"{size_text(worst.quota_used or 0)} of a quota of {size_text(worst.quota_limit or 0)} used"
        yield entry(used, what, "make room, or ask for a larger quota")


def busy(reports: Sequence[HostReport]) -> Iterator[Entry]:
    """Name the hosts that have more to do already than they have cores."""
    loaded = [report for report in reports if report.is_busy]
    if loaded:
        worst = max(loaded, key=lambda report: (report.load or 0.0) / (report.cores or 1))
        what = f"busy: load {worst.load or 0.0:.1f} on {worst.cores} cores"
        yield entry(loaded, what, "jobs will be slow there; give it fewer slots, or wait")


def entry(reports: Sequence[HostReport], what: str, remedy: str) -> Entry:
    """Make an entry about these hosts."""
    return Entry(tuple(report.host for report in reports), what, remedy)


# -- words --------------------------------------------------------------------------------------------------


def size_text(number: int) -> str:
    """Give a number of bytes in four digits at most: `812G`, `3.1G`, `0`."""
    size = float(number)
    for unit in ("", "K", "M", "G", "T"):
        if size < 999.5:
            return f"{size:.1f}{unit}" if unit and size < 9.95 else f"{size:.0f}{unit}"
        size /= 1024
    return f"{size:.0f}P"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Give each name without the domain that all of them have in common, if there is one."""
    domains = {name.partition(".")[2] for name in names}
    domain = domains.pop() if len(domains) == 1 else ""
    if domain and not domain.rpartition(".")[2].isdigit():  # the numbers of an address are no domain
        return {name: name.partition(".")[0] for name in names}
    return {name: name for name in names}
