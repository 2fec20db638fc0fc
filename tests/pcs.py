"""One PC made of Linux namespaces, without and with an sshd: how it starts, dies and is disturbed.

What joins PCs to a pool, and why they are made like this, is in namespaces.py; what they see of this
machine's files is in mounts.py.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mounts import view
from processes import PROC, Process, below, everything, kill_all, look, wait_for
from sshd import SEARCH, UnavailableError, find_sshd, link_python, make_key

if TYPE_CHECKING:
    from namespaces import NamespacePool

SHARE = Path("/run/pool")  # where a PC sees its own folder
ETC = ("hosts", "passwd", "group")  # the files of /etc that differ from those of this machine
READY = "this PC is up"
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
SEAT = ["--net", "--uts", "--ipc", "--mount"]  # the namespaces that every PC has of its own


class BootError(Exception):
    """A PC does not start, though this machine could run it; the message has what it said."""


class Pc:
    """A PC in the pool's network, without an sshd: one at which a head runs. Made by `NamespacePool`."""

    def __init__(self, pool: NamespacePool, name: str, address: str) -> None:
        self.pool = pool
        self.name = name
        self.folder = pool.folder / name
        self.address = address
        self.seat: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "boot.log"
        self._network: int | None = None  # the network namespace's inode: what belongs to this PC is in it
        self._network_home: subprocess.Popen[bytes] | None = None
        link_python(self.folder / "bin")

    # -- up and down ----------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start it, after `power_off` or a crash: name, address and keys stay, /tmp is empty."""
        self.begin_boot()
        self.await_boot()

    def begin_boot(self) -> None:
        """Start it without waiting."""
        self.power_off()
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.folder / "network").write_text(self._network_setup())
        (self.folder / "boot").write_text(self._boot_script())
        # Private mounts at first: nothing of what follows may reach this machine.
        command = ["unshare", *SEAT, "--propagation", "private", "sh", str(self.folder / "boot")]
        self.seat = self.pool.start_child(command, self.log)

    def await_boot(self) -> None:
        """Wait until it is up. Raises BootError with what it said if it does not come up."""
        wait_for(lambda: READY in self.log.read_text() or not self.on, f"{self.name} to boot")
        self._check(self.on)
        assert self.seat is not None
        self._network = network_of(self.seat.pid)
        assert self._network != network_of(os.getpid())
        wait_for(self._linked, f"the link of {self.name}")

    @property
    def on(self) -> bool:
        """Whether it has power."""
        return self.seat is not None and self.seat.poll() is None

    def power_off(self) -> None:
        """Cut the power: the link is gone first, so nobody is told, and what the kernel knew is forgotten."""
        if self.seat is None:
            return
        if self.pool.on_bridge("link", "show", "dev", self.name).returncode == 0:
            self.pool.on_bridge("link", "delete", "dev", self.name)
        self._end()
        if self._network_home is not None:
            self._network_home.kill()
            self._network_home.wait()
            self._network_home = None
        self.seat.kill()
        self.seat.wait()
        self.seat = self._network = None

    # -- the link -------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull the cable out of the switch: packets vanish both ways, nothing is refused."""
        self.pool.on_bridge("link", "set", self.name, "nomaster", check=True)

    def heal(self) -> None:
        """Put the cable back."""
        self.pool.on_bridge("link", "set", self.name, "master", "bridge", check=True)

    # -- what runs there ------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Give what runs there, without what makes the PC itself."""
        if self._network is None:
            return []
        own = {process.pid for process in self._scaffold()}
        return [p for p in everything() if network_of(p.pid) == self._network and p.pid not in own]

    def started_there(self) -> list[Process]:
        """Give the processes of the pool's user: shells, workers, jobs; no sshd."""
        mine = [process for process in self.processes() if user_of(process) == self.pool.uid]
        return [process for process in mine if not process.name.startswith("sshd")]

    def freeze(self) -> None:
        """Stop every process, as a suspended or overloaded PC does; the kernel still answers."""

        def frozen() -> bool:
            moving = [process for process in self.processes() if process.state not in "Tt"]
            for process in moving:
                process.send(signal.SIGSTOP)
            return all(map(stops_soon, moving))

        wait_for(frozen, f"{self.name} to freeze")

    def thaw(self) -> None:
        """Let a frozen PC go on."""
        for process in self.processes():
            process.send(signal.SIGCONT)

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as root, in `/`. Raises subprocess.CalledProcessError if it fails and `check`."""
        return subprocess.run(
            [*self._inside(), *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.pool.environment,
            check=check,
        )

    def prefix(self) -> list[str]:
        """Give what to put before a command to run it there as the pool's user, where it is started.

        The process that is started becomes the command: it can be signalled and waited for.
        """
        assert self.seat is not None, f"{self.name} is off"
        enter = ["nsenter", f"--target={self.seat.pid}", *SEAT]
        # Another mount namespace begins in its root; the folder is found again by its path.
        return ["sh", "-c", f'exec {shlex.join([*enter, *self._as_user()])} env --chdir="$PWD" "$@"', "sh"]

    def _as_user(self) -> list[str]:
        return ["setpriv", f"--reuid={self.pool.uid}", f"--regid={self.pool.uid}", "--clear-groups", "--"]

    # -- files ----------------------------------------------------------------------------------------------

    def mount_over(self, path: Path, size: str = "100%", mode: str = "0777") -> None:
        """Put an empty file system over a folder, on this PC alone and until `unmount` or the next boot.

        With a `size` (bytes, or with k, m, g) it has room for so much.
        """
        self._in_seat("mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "none", str(path))

    def unmount(self, path: Path) -> None:
        """Take away what `mount_over` put there, even if somebody still works in it."""
        self._in_seat("umount", "--lazy", str(path))

    def mount_network_home(self, options: str) -> None:
        """See the home through a network file system until the next boot: sshfs, with these options.

        Its server and client are no processes of this PC, and there is no network between them. Raises
        UnavailableError where this machine cannot do that.
        """
        if shutil.which("sshfs") is None or not SFTP_SERVER.exists():
            raise UnavailableError("a network home needs sshfs and OpenSSH's sftp-server")
        server = self.folder / "sftp-server"
        server.write_text(f"#!/bin/sh\nexec {shlex.join([*self._as_user(), str(SFTP_SERVER)])}\n")
        server.chmod(0o755)
        home, real = str(self.pool.home), "/run/real_home"
        self._in_seat("mkdir", real)
        self._in_seat("mount", "--bind", home, real)
        self._in_seat("mount", "--make-private", real)  # or what is mounted over the home would be there, too
        options = f"ssh_command={SHARE}/sftp-server,allow_other,{options}"
        assert self.seat is not None
        enter = ["nsenter", f"--target={self.seat.pid}", "--mount"]
        command = [*enter, "sshfs", "-f", "-o", options, f"real:{real}", home]
        log = self.folder / "sshfs.log"
        self._network_home = client = self.pool.start_child(command, log)

        def is_mounted() -> bool:
            if client.poll() is not None:
                raise UnavailableError(f"no network home here: {log.read_text().strip()}")
            return self.run("stat", "--file-system", "--format=%T", home).stdout.startswith("fuse")

        wait_for(is_mounted, f"the network home of {self.name}")

    # -- how it is made -------------------------------------------------------------------------------------

    def _network_setup(self) -> str:
        lines = [
            "link set lo up",
            f"link add name eth0 address {hardware(self.address)} type veth"
            f" peer name {self.name} netns {self.pool.bridge.pid}",
            f"address add {self.address}/24 dev eth0",
            "link set eth0 up",
        ]
        others = [pc.address for pc in self.pool.pcs if pc is not self]
        lines += [f"neighbour add {a} lladdr {hardware(a)} dev eth0 nud permanent" for a in others]
        return "\n".join(lines) + "\n"

    def _boot_script(self) -> str:
        pool = self.pool
        commands = [
            ["ip", "-batch", str(self.folder / "network")],
            [*pool.to_bridge(), "ip", "link", "set", self.name, "master", "bridge", "up"],
            *view(self.folder / "stage", [*pool.visible, self.folder], [Path(sys.executable)]),
            ["mkdir", "-p", "-m", "755", "/run/sshd", str(SHARE)],
            ["mount", "--bind", str(self.folder), str(SHARE)],
            *(["mount", "--bind", str(SHARE / "etc" / name), f"/etc/{name}"] for name in ETC),
            self._identify(),
            # From here on what is mounted in this namespace is seen by those made from it.
            ["mount", "--make-rshared", "/"],
        ]
        lines = ["set -e", f"echo {self.name} >/proc/sys/kernel/hostname", *map(shlex.join, commands)]
        return "\n".join([*lines, *self._start(), f"echo {READY}", "exec sleep infinity"]) + "\n"

    def _identify(self) -> list[str]:
        """Give the command that makes the kernel's boot_id one of this boot, not of this machine's."""
        return ["mount", "--bind", str(SHARE / "boot_id"), "/proc/sys/kernel/random/boot_id"]

    def _start(self) -> list[str]:
        """Give the lines of the boot script that start something."""
        return []

    def _scaffold(self) -> list[Process]:
        """Give the processes that make the PC itself."""
        assert self.seat is not None
        seat = look(self.seat.pid)
        return [seat] if seat is not None else []

    def _end(self) -> None:
        kill_all(self.processes, f"the processes of {self.name}")

    def _inside(self) -> list[str]:
        assert self.seat is not None, f"{self.name} is off"
        return ["nsenter", f"--target={self.seat.pid}", *SEAT]

    def _in_seat(self, *command: str) -> None:
        subprocess.run([*Pc._inside(self), *command], check=True, env=self.pool.environment)

    def _linked(self) -> bool:
        port = self.pool.on_bridge("-details", "link", "show", "dev", self.name).stdout
        own = subprocess.run(
            [*Pc._inside(self), "ip", "link", "show", "dev", "eth0"],
            capture_output=True,
            text=True,
            env=self.pool.environment,
            check=True,
        )
        return "state forwarding" in port and "state UP" in own.stdout

    def _said(self) -> str:
        return self.log.read_text().strip()

    def _check(self, fine: bool) -> None:
        if not fine:
            raise BootError(f"{self.name} does not start: {self._said()}")


class Host(Pc):
    """A PC with processes of its own and an sshd. Made by `NamespacePool`."""

    def __init__(self, pool: NamespacePool, name: str, address: str) -> None:
        super().__init__(pool, name, address)
        self.settings: Sequence[str] = pool.settings  # of sshd_config, from the next start of sshd on
        self.clock = pool.clock_step * int(address.split(".")[-1])
        self.public_key = make_key(self.folder / "host_key")
        self.init: Process | None = None
        self.sshd_log = self.folder / "sshd.log"
        self._listener_file = self.folder / "sshd.pid"
        shutil.copy(pool.identity.with_suffix(".pub"), self.folder / "authorized_keys")

    def begin_boot(self) -> None:
        """Start it without waiting."""
        self._prepare_sshd()
        lines = ["set -e", shlex.join(self._identify()), shlex.join(self._sshd())]
        # The kernel buries the children of a process that ignores this signal.
        lines.append("exec env --ignore-signal=CHLD sleep infinity")
        (self.folder / "init").write_text("\n".join(lines) + "\n")
        super().begin_boot()

    def await_boot(self) -> None:
        """Wait until it takes connections. Raises BootError if it does not come up."""
        super().await_boot()
        self.init = wait_for(self._find_init, f"the first process of {self.name}")
        self._await_sshd()

    @property
    def running(self) -> bool:
        """Whether it has been booted and has not crashed."""
        return self.on and self.init is not None and self.init.alive()

    def crash(self) -> None:
        """End every process at once; the kernel goes on, resets what is open and refuses what is new.

        A kernel that cannot reset connections for others (CONFIG_INET_DIAG_DESTROY) closes them instead.
        """
        assert self.running, f"{self.name} is not running"
        self.freeze()  # so that nobody can tell of another's death
        self.run("ss", "--kill", "--tcp", check=False)
        self._end()

    # -- sshd -----------------------------------------------------------------------------------------------

    def stop_sshd(self, sessions: bool = False) -> None:
        """Refuse new connections; those that are open go on, or end with `sessions`."""
        number = self._listener_file.read_text().strip()
        daemons = [process for process in self.processes() if process.name.startswith("sshd")]
        ended = [process for process in daemons if sessions or status_of(process, "NSpid")[-1:] == [number]]
        assert ended, f"no sshd listens on {self.name}"
        for process in ended:
            process.send(signal.SIGKILL)
        wait_for(lambda: not any(process.alive() for process in ended), f"the end of sshd on {self.name}")

    def start_sshd(self) -> None:
        """Take connections again, with the present `settings`."""
        self._prepare_sshd()
        self.run(*self._sshd())
        self._await_sshd()

    def restart_sshd(self, sessions: bool = False) -> None:
        """Stop and start sshd as an update does; open connections go on, or end with `sessions`."""
        self.stop_sshd(sessions)
        self.start_sshd()

    # -- how it is made -------------------------------------------------------------------------------------

    def _prepare_sshd(self) -> None:
        self._listener_file.unlink(missing_ok=True)
        lines = [
            *self.settings,  # the first value of a setting counts
            "Port 22",
            "AddressFamily inet",
            f"HostKey {SHARE}/host_key",
            f"AuthorizedKeysFile {SHARE}/authorized_keys",  # a host without the home lets one in, too
            f"PidFile {SHARE}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "LogLevel VERBOSE",
            "Subsystem sftp internal-sftp",
            f'SetEnv "PATH={SHARE}/bin:{SEARCH}" LANG=C.UTF-8',
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _sshd(self) -> list[str]:
        limit = self.pool.max_processes
        limited = ["prlimit", f"--nproc={limit}"] if limit else []
        return [*limited, str(find_sshd()), "-f", f"{SHARE}/sshd_config", "-E", f"{SHARE}/sshd.log"]

    def _await_sshd(self) -> None:
        # sshd writes its number when it listens.
        file = self._listener_file
        wait_for(lambda: read_if_there(file) or not self.running, f"sshd of {self.name}")
        self._check(self.running)

    def _said(self) -> str:
        return "\n".join([super()._said(), *read_if_there(self.sshd_log).splitlines()[-3:]])

    def _start(self) -> list[str]:
        spaces = ["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if self.clock:
            spaces += ["--time", f"--monotonic={self.clock}", f"--boottime={self.clock}"]
        first = ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "sh", str(SHARE / "init")]
        return [shlex.join(first) + " &"]

    def _find_init(self) -> Process | None:
        assert self.seat is not None
        family = below([self.seat.pid], everything())
        self._check(bool(family))
        return next((p for p in family if status_of(p, "NSpid")[1:] == ["1"]), None)

    def _scaffold(self) -> list[Process]:
        assert self.seat is not None
        family = below([self.seat.pid], everything())
        own = [
            p
            for p in family
            if p.parent == self.seat.pid or (self.init is not None and p.pid == self.init.pid)
        ]
        return [*super()._scaffold(), *own]

    def _end(self) -> None:
        if self.init is not None:
            first = self.init
            first.send(signal.SIGKILL)  # all others die with it, before any can do a thing
            wait_for(lambda: not first.alive(), f"the end of {self.name}")
        super()._end()

    def _inside(self) -> list[str]:
        if not self.running:
            return super()._inside()
        assert self.init is not None
        spaces = [*SEAT, "--pid", *(["--time"] if self.clock else [])]
        return ["nsenter", f"--target={self.init.pid}", *spaces]


def hardware(address: str) -> str:
    """Give the hardware address that belongs to an IPv4 address."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def network_of(pid: int) -> int | None:
    """Give the inode of a process's network namespace, None if there is no such process."""
    try:
        return (PROC / str(pid) / "ns" / "net").stat().st_ino
    except OSError:
        return None


def status_of(process: Process, key: str) -> list[str]:
    """Give the words of a line of /proc/PID/status; none if the process is gone."""
    try:
        lines = (PROC / str(process.pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return next((line.split()[1:] for line in lines if line.startswith(f"{key}:")), [])


def stops_soon(process: Process) -> bool:
    """Whether a process is within the kernel and stops before it runs again.

    One that has started another with vfork cannot stop before that one has executed its program, which it
    never does when it was stopped itself.
    """
    pending = status_of(process, "ShdPnd")
    return process.state == "D" and bool(pending) and bool(int(pending[0], 16) >> signal.SIGSTOP - 1 & 1)


def user_of(process: Process) -> int | None:
    """Give the real user of a process, None if it is gone."""
    words = status_of(process, "Uid")
    return int(words[0]) if words else None


def read_if_there(path: Path) -> str:
    """Give the text of a file, none if there is no such file."""
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
