"""A computer pool on one machine: PCs of Linux namespaces, each with a real sshd, that share one home.

Every PC has a network, a hostname, mounts and IPC of its own, with /tmp, /run and /dev/shm emptied by each
boot; a host also has processes of its own, and sshd on port 22. The PCs are joined by a bridge, which lives
in a network namespace of its own. Knows nothing of pytest or of pisa_fab, so that benchmarks and the soak use
it too. Needs root, iproute2, util-linux and openssh-server; `unavailable` says what is missing.

How it is made:

- A namespace has no name and lives as long as a process in it: the *seat* of a PC, a child of ours that the
  kernel kills when we die, by whatever. So a test run that was killed leaves nothing, and pools do not meet.
- The user of the pool is no root, for root is exempt from many limits. It exists in the pool only:
  /etc/passwd of the PCs has one line more than that of this machine, with a number that nobody else uses.
  What a test writes into the home belongs to root until `give` makes a present of it.
- Programs of the head run in the head's namespaces but in no process namespace, so that they can be waited
  for and killed like any other child; so do those that `prefix` starts on a host, beside what comes there
  over SSH.
- The interpreter of this process, its venv and this checkout are seen on every PC at their own paths, even
  below folders that are closed to others (see mounts.py); `python3` is the interpreter without the venv. They
  must be readable for others; where they are not (umask 077), the pool is unavailable.
- Neighbours know each other's hardware addresses for ever, so that packets to a PC that is cut or off vanish.
  With ARP a PC would be told `No route to host` after three seconds.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from pcs import ETC, SEAT, SHARE, BootError, Host, Pc
from processes import wait_for
from sshd import SEARCH, UnavailableError, find_sshd, make_key

CHECKOUT = Path(__file__).resolve().parents[1]
NETWORK = "10.77.0"
HEADS_FROM = 241  # the last byte of the first head's address; those of the hosts begin at 1
USER = "student"
PLAIN = {"PATH": SEARCH}  # the environment of what makes the pool
TOOLS = ("ip", "ss", "unshare", "nsenter", "setpriv", "prlimit", "mount", "umount", "ssh", "ssh-keygen")
TRIAL = (
    "ip link add name bridge type bridge && ip link add name one type veth peer name two"
    " && mount -t tmpfs none /tmp && echo trial >/proc/sys/kernel/hostname"
)


@cache
def unavailable() -> str | None:
    """Say why this machine cannot run such a pool, None if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a matter of Linux"
    if os.geteuid() != 0:
        return "a pool of namespaces needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=SEARCH) is None]
    if find_sshd() is None:
        missing.append("sshd")
    if missing:
        return f"a pool of namespaces needs {', '.join(missing)}"
    spaces = [*SEAT, "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run(
        ["unshare", *spaces, "sh", "-c", TRIAL], capture_output=True, text=True, env=PLAIN, check=False
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode != 0 else None


class NamespacePool:
    """Hosts pc01, pc02, ... and the PC of the head, all running; ends with `close`, or as a context manager.

    Attributes:
        names: of the hosts.
        hosts, heads, pcs: the hosts; the PCs called head, head2, ... ; all of them. `pool["pc01"]` is one.
        environment: of programs that the user starts on a head.
        uid: of the user, and of their group.
        identity: the private key of the user, in the home.
    """

    def __init__(
        self,
        folder: Path,
        home: Path,
        hosts: int = 4,
        heads: int = 1,
        settings: Sequence[str] = (),
        home_size: str = "",
        max_processes: int = 0,
        clock_step: int = 0,
    ) -> None:
        """Start it. Raises UnavailableError where this machine cannot run it, BootError where it should.

        Args:
            folder: an empty or new folder for files of the pool itself.
            home: the home that all PCs share; made if it is not there.
            hosts: how many, 240 at the most.
            heads: how many PCs without sshd, for heads, 10 at the most.
            settings: lines of sshd_config, which win over those of the pool.
            home_size: how much the home has room for (bytes, or with k, m, g), which is then a file system of
                its own and must have been empty; it is gone after `close`.
            max_processes: how many processes (and threads) the user may have in the whole pool, asked on the
                hosts only; 0 for no limit.
            clock_step: how many seconds the monotonic clock of each host is ahead of the one before.
        """
        if reason := unavailable():
            raise UnavailableError(reason)
        assert hosts < HEADS_FROM
        assert heads <= 10
        self.folder = folder
        self.home = home
        self.settings = settings
        self.max_processes = max_processes
        self.clock_step = clock_step
        self.uid = unused_uid()
        self.identity = home / ".ssh" / "id_ed25519"
        self.visible = [Path(sys.base_prefix), Path(sys.prefix), CHECKOUT, home]
        self.environment = {
            "HOME": str(home),
            "PATH": f"{SHARE}/bin:{SEARCH}",
            "USER": USER,
            "LOGNAME": USER,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        self.hosts: list[Host] = []
        self.heads: list[Pc] = []
        # The kernel kills a child with the thread that started it; this one lives as long as the pool.
        self._starter = ThreadPoolExecutor(1, "namespaces")
        self._home_keeper: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        home.mkdir(parents=True, exist_ok=True)
        self.bridge = self._start_bridge()
        with ExitStack() as stack:
            stack.callback(self.close)  # nothing is left if a PC does not start
            if home_size:
                self._limit_home(home_size)
            make_key(self.identity)
            self.heads = [
                Pc(self, f"head{n + 1}" if n else "head", f"{NETWORK}.{HEADS_FROM + n}") for n in range(heads)
            ]
            self.hosts = [Host(self, f"pc{n:02d}", f"{NETWORK}.{n}") for n in range(1, hosts + 1)]
            self._write_files()
            self._boot()
            stack.pop_all()

    @property
    def names(self) -> list[str]:
        """The names of the hosts."""
        return [host.name for host in self.hosts]

    @property
    def pcs(self) -> list[Pc]:
        """Every PC."""
        return [*self.heads, *self.hosts]

    def __getitem__(self, name: str) -> Host:
        return {host.name: host for host in self.hosts}[name]

    def __enter__(self) -> NamespacePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prefix(self, name: str = "head") -> list[str]:
        """Give what to put before a command to run it on a PC as the user, where it is started."""
        return {pc.name: pc for pc in self.pcs}[name].prefix()

    def give(self, path: Path) -> None:
        """Make the user the owner of a file or folder and of all that is in it."""
        os.chown(path, self.uid, self.uid, follow_symlinks=False)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.uid, self.uid, follow_symlinks=False)

    def fill_home(self) -> None:
        """Leave no room in the home, which must have a size, until `empty_home`."""
        assert self._home_keeper is not None, "this would fill the disk of this machine"
        with (self.home / ".filler").open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def empty_home(self) -> None:
        """Give back the room that `fill_home` took."""
        (self.home / ".filler").unlink()

    def leftovers(self) -> list[str]:
        """Describe what the user's processes on the hosts are: shells, workers, jobs."""
        return [
            f"{host.name}: {process.describe()}" for host in self.hosts for process in host.started_there()
        ]

    def assert_empty(self, deadline: float = 100.0) -> None:
        """Let all hosts go on, and wait until nothing of the user runs on them any more.

        Raises AssertionError with what is left after `deadline` seconds, which is to be more than a lease.
        """
        for host in self.hosts:
            if host.on:
                host.thaw()
        try:
            wait_for(lambda: not self.leftovers(), "the last process on the hosts", deadline)
        except AssertionError:
            raise AssertionError("left behind:\n  " + "\n  ".join(self.leftovers())) from None

    def close(self) -> None:
        """End everything and take it away; what is in the folders stays."""
        with ExitStack() as stack:  # each is taken away, whatever becomes of another; the last one first
            stack.callback(self._starter.shutdown)
            stack.callback(self._release_home)
            stack.callback(self.bridge.wait)
            stack.callback(self.bridge.kill)
            for pc in self.pcs:
                stack.callback(pc.power_off)

    # -- for its PCs ----------------------------------------------------------------------------------------

    def start_child(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process that dies with this one, out of reach of Ctrl-C, its output in a file."""
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        with log.open("wb") as file:
            return self._starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd="/",
                env=PLAIN,
                start_new_session=True,
            ).result()

    def to_bridge(self) -> list[str]:
        """Give what to put before a command to run it beside the bridge."""
        return ["nsenter", f"--target={self.bridge.pid}", "--net"]

    def on_bridge(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `ip` beside the bridge, where the other end of each PC's link has the PC's name."""
        return subprocess.run(
            [*self.to_bridge(), "ip", *arguments], capture_output=True, text=True, env=PLAIN, check=check
        )

    def etc_files(self) -> dict[str, str]:
        """Give the files of /etc that are different on a PC of the pool."""
        names = ["127.0.0.1 localhost", *(f"{pc.address} {pc.name}" for pc in self.pcs)]
        shell = shutil.which("bash", path=SEARCH) or "/bin/sh"
        users = [*others_of("passwd"), f"{USER}:*:{self.uid}:{self.uid}::{self.home}:{shell}"]
        groups = [*others_of("group"), f"{USER}:*:{self.uid}:"]
        return {
            name: "\n".join(lines) + "\n" for name, lines in zip(ETC, (names, users, groups), strict=True)
        }

    # -- how it is made -------------------------------------------------------------------------------------

    def _start_bridge(self) -> subprocess.Popen[bytes]:
        log = self.folder / "bridge.log"
        script = (
            "ip link add name bridge type bridge && ip link set bridge up && echo up && exec sleep infinity"
        )
        bridge = self.start_child(["unshare", "--net", "sh", "-c", script], log)
        wait_for(lambda: "up" in log.read_text().split() or bridge.poll() is not None, "the bridge")
        if bridge.poll() is not None:
            raise BootError(f"no bridge: {log.read_text().strip()}")
        return bridge

    def _limit_home(self, size: str) -> None:
        assert not any(self.home.iterdir()), f"{self.home} is not empty"
        # This mount is one of this machine's, so that this process sees the home, too. Whoever keeps it takes
        # it away when its input ends, as it does when this process is gone.
        keep = ["sh", "-c", 'read -r _; umount --lazy "$1"', "sh", str(self.home)]
        self._home_keeper = subprocess.Popen(
            keep,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=PLAIN,
            start_new_session=True,
        )
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", self.home], env=PLAIN, check=True
        )

    def _release_home(self) -> None:
        if self._home_keeper is not None:
            self._home_keeper.communicate()
            self._home_keeper = None

    def _write_files(self) -> None:
        known = [f"{host.name},{host.address} {host.public_key}\n" for host in self.hosts]
        (self.home / ".ssh" / "known_hosts").write_text("".join(known))
        (self.home / ".ssh").chmod(0o700)
        self.give(self.home)
        for pc in self.pcs:
            (pc.folder / "etc").mkdir()
            for name, text in self.etc_files().items():
                (pc.folder / "etc" / name).write_text(text)

    def _boot(self) -> None:
        for pc in self.pcs:
            pc.begin_boot()
        for pc in self.pcs:
            pc.await_boot()
        for head in self.heads:
            tried = subprocess.run(
                [*head.prefix(), sys.executable, "-I", "-S", "-c", ""],
                cwd=self.home,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if tried.returncode != 0:
                raise UnavailableError(
                    f"an ordinary user cannot run {sys.executable}: {tried.stderr.strip()}"
                )


def unused_uid() -> int:
    """Give a number that is no user's; every pool has its own, for some limits count per user."""
    while True:
        uid = 1_000_000 + secrets.randbelow(1_000_000)
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid


def others_of(name: str) -> list[str]:
    """Give the lines of /etc/passwd or /etc/group that are not about the pool's user."""
    return [line for line in Path("/etc", name).read_text().splitlines() if not line.startswith(f"{USER}:")]
