"""Real OpenSSH servers on loopback, each a host of its own, run by the current user without touching ~/.ssh.

All hosts share one home, as those of a pool do: a folder given by the caller, in which `.ssh/config`,
`.ssh/known_hosts` and the one user key are written. Knows nothing of pytest or of pisa_fab, so that
benchmarks use it too.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import Process, below, carries, everything, kill_all, wait_for

SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
LISTENING = "Server listening on 127.0.0.1 port"
TAKEN = "Address already in use"
TRIES = 20  # ports to try before the machine is believed to have none


class UnavailableError(Exception):
    """This machine cannot run such a host; the message says why."""


def find_sshd() -> str | None:
    """Give the absolute path of sshd, None if there is none."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{SEARCH}")


def free_port() -> int:
    """Give a loopback port that nobody uses at this moment; somebody may before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> str:
    """Make a key pair, encrypted where there is a passphrase, and give its public half: `type key`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-a", "1", "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def link_python(folder: Path) -> None:
    """Put the interpreter of this process, without its venv, into a folder as `python3`."""
    folder.mkdir(parents=True, exist_ok=True)
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (folder / "python3").symlink_to(interpreter)


def needs_pam() -> bool:
    """Whether sshd would refuse root for its locked password, which it does only where PAM is not asked."""
    if os.geteuid() != 0:
        return False
    lines = Path("/etc/shadow").read_text().splitlines()
    return any(line.startswith("root:!") for line in lines)


@dataclass(frozen=True)
class Options:
    """How a host differs from a well-behaved one.

    Attributes:
        greeting: what it prints before every command, as a chatty .bashrc does, without a newline of its own.
        refuse_key: it does not accept the user's key.
        authorized: public keys that it accepts beside the user's.
        unknown_key: it is not in known_hosts.
        wrong_key: known_hosts has another key for it.
        hide: folders that are empty on this host (root only).
        python: whether it has a `python3` in PATH.
        settings: further lines of its sshd_config, which win over those written here.
    """

    greeting: str = ""
    refuse_key: bool = False
    authorized: Sequence[str] = ()
    unknown_key: bool = False
    wrong_key: bool = False
    hide: Sequence[Path] = ()
    python: bool = True
    settings: Sequence[str] = ()


class SshHost:
    """One sshd and everything that runs below it. Made by `Hosts.start`."""

    def __init__(self, name: str, folder: Path, home: Path, user_key: str, options: Options) -> None:
        self.name = name
        self.folder = folder
        self.home = home
        self.options = options
        self.port = free_port()
        key = make_key(folder / "host_key")
        self.known_key = make_key(folder / "other_key") if options.wrong_key else key
        self.log = folder / "sshd.log"
        self.listener: subprocess.Popen[bytes] | None = None
        self.sessions: list[Process] = []  # of listeners that were stopped
        accepted = [*([] if options.refuse_key else [user_key]), *options.authorized]
        (folder / "authorized_keys").write_text("".join(f"{line}\n" for line in accepted))
        (folder / "bin").mkdir()
        if options.python:
            link_python(folder / "bin")
        if options.greeting:
            self._write_greeter()

    @property
    def mark(self) -> bytes:
        """What the environment of everything that is started over SSH on this host contains."""
        return os.fsencode(f"PISA_TEST_HOST={self.folder}") + b"\0"

    @property
    def pid(self) -> int:
        """The pid of the listening sshd."""
        assert self.listener is not None, f"{self.name} is not running"
        return self.listener.pid

    # -- up -------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the sshd without waiting for it."""
        assert self.listener is None, f"{self.name} is running"
        self.log.write_bytes(b"")
        (self.folder / "sshd_config").write_text(self._config())
        command = [str(find_sshd()), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if self.options.hide:
            hidden = [
                f"mount -t tmpfs -o size=64k none {shlex.quote(str(path))}" for path in self.options.hide
            ]
            script = " && ".join([*hidden, "exec " + shlex.join(command)])
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        if shutil.which("setpriv"):  # so that it does not survive a test run that was killed
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        with self.log.open("ab") as log:
            self.listener = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env={"PATH": SEARCH}
            )

    def await_listening(self) -> None:
        """Wait until it takes connections, on another port if somebody was faster to take this one."""
        for _ in range(TRIES):
            wait_for(lambda: LISTENING in self._said() or self._ended(), f"sshd of {self.name}")
            if LISTENING in self._said():
                return
            self.listener = None
            if TAKEN not in self._said():
                raise UnavailableError(f"sshd does not start: {self._said().strip()}")
            self.port = free_port()
            self.boot()
        raise UnavailableError("no free port on 127.0.0.1")

    def start_again(self) -> None:
        """Start it after `stop` or `crash`, on the same port."""
        port = self.port
        self.boot()
        self.await_listening()
        assert self.port == port, f"the port of {self.name} was taken meanwhile"

    # -- down -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self.listener is not None:
            self.sessions = self._open_sessions()
            self.listener.terminate()
            self._end_listener()

    def crash(self) -> None:
        """End sshd and every process that was started through it, all at once."""
        if self.listener is not None:
            # As long as it is not waited for, its pid is its own and what is below it can be found.
            self.listener.send_signal(signal.SIGSTOP)
            found = self.processes()
            for process in found:
                process.send(signal.SIGSTOP)
            self.listener.kill()
            for process in found:
                process.send(signal.SIGKILL)
            self._end_listener()
        kill_all(self.processes, f"the processes of {self.name}")

    def kill_link(self) -> None:
        """Break every open connection; what it carried is not told, but its input ends."""
        sessions = self._open_sessions()
        assert sessions, f"nobody is connected to {self.name}"
        for process in sessions:
            process.send(signal.SIGKILL)
        wait_for(lambda: not any(s.alive() for s in sessions), f"the end of the connections of {self.name}")

    def freeze(self) -> None:
        """Stop every process of the host, as a suspended or overloaded PC does; connections stay open."""
        if self.listener is not None:
            self.listener.send_signal(signal.SIGSTOP)

        def frozen() -> bool:
            moving = [process for process in self.processes() if process.state not in "Tt"]
            for process in moving:
                process.send(signal.SIGSTOP)
            return not moving

        wait_for(frozen, f"{self.name} to freeze")

    def thaw(self) -> None:
        """Let a frozen host go on."""
        for process in self.processes():
            process.send(signal.SIGCONT)
        if self.listener is not None:
            self.listener.send_signal(signal.SIGCONT)

    def disconnect(self) -> None:
        """Refuse new connections and break the open ones: the last thing that happens to a host in a test."""
        self.thaw()
        self.stop()
        for process in self._open_sessions():
            process.send(signal.SIGKILL)

    def logins(self) -> int:
        """Say how often somebody has logged in since it was started."""
        return self._said().count("Accepted publickey")

    # -- what runs there ------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Give what runs on this host: sshd's sessions and all that they started; not the listener."""
        among = everything()
        old = {(session.pid, session.started) for session in self.sessions}
        roots = [process for process in among if (process.pid, process.started) in old]
        listening = [self.listener.pid] if self.listener is not None else []
        tree = below([*listening, *(process.pid for process in roots)], among)
        known = {*listening, *(process.pid for process in [*roots, *tree])}
        strays = [process for process in among if process.pid not in known and carries(process, self.mark)]
        return [*roots, *tree, *strays]

    def started_there(self) -> list[Process]:
        """Give what was started over SSH on this host: shells, workers, jobs; no sshd."""
        return [process for process in self.processes() if not process.name.startswith("sshd")]

    def _open_sessions(self) -> list[Process]:
        return [process for process in self.processes() if process.name.startswith("sshd")]

    def _said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def _ended(self) -> bool:
        return self.listener is None or self.listener.poll() is not None

    def _end_listener(self) -> None:
        if self.listener is not None:
            self.listener.send_signal(signal.SIGCONT)
            self.listener.wait()
            self.listener = None

    def _write_greeter(self) -> None:
        script = self.folder / "greet"
        script.write_text(
            "#!/bin/sh\n"
            f"printf %s {shlex.quote(self.options.greeting)}\n"
            '[ -z "$SSH_ORIGINAL_COMMAND" ] || exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
            "exec /bin/sh\n"
        )
        script.chmod(0o755)

    def _config(self) -> str:
        # Several variables must stand on one line: of several SetEnv lines sshd takes the first.
        search = f"{self.folder}/bin" + (f":{SEARCH}" if self.options.python else "")
        environment = {
            "HOME": str(self.home),
            "PATH": search,
            "PISA_TEST_HOST": str(self.folder),
            "LANG": "C.UTF-8",
        }
        lines = [
            *self.options.settings,  # the first value of a setting counts
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f'HostKey "{self.folder}/host_key"',
            f'AuthorizedKeysFile "{self.folder}/authorized_keys"',
            "PidFile none",
            "StrictModes no",
            f"UsePAM {'yes' if needs_pam() else 'no'}",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "LogLevel VERBOSE",
            "Subsystem sftp internal-sftp",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
        ]
        if self.options.greeting:
            lines.append(f'ForceCommand "{self.folder}/greet"')
        return "\n".join(lines) + "\n"


class Agent:
    """A real ssh-agent; `socket` is what SSH_AUTH_SOCK is to name."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="agent-")  # a socket's path must be short
        self.socket = str(Path(self.folder.name) / "socket")
        command = ["ssh-agent", "-D", "-a", self.socket]
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for(lambda: Path(self.socket).exists(), "the agent")

    def add(self, key: Path, passphrase: str = "") -> None:
        """Load a private key."""
        answer = Path(self.folder.name) / "answer"
        answer.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(passphrase)}\n")
        answer.chmod(0o700)
        env = {
            "PATH": os.environ.get("PATH", SEARCH),
            "SSH_AUTH_SOCK": self.socket,
            "SSH_ASKPASS": str(answer),
            "SSH_ASKPASS_REQUIRE": "force",
            "DISPLAY": "none",  # older ones ask on a display only
        }
        subprocess.run(["ssh-add", "-q", key], env=env, stdin=subprocess.DEVNULL, check=True)

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


class Hosts:
    """The hosts of one test, in `folder`, and the `home` that they share with whoever connects to them."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.hosts: list[SshHost] = []
        self.identity = home / ".ssh" / "id_ed25519"
        self.prefix = "pc"
        self._user_key = ""

    def start(self, number: int = 1, **options: object) -> list[SshHost]:
        """Start some more hosts with the given `Options`; they are called pc01, pc02, ... (see `prefix`)

        Raises UnavailableError where this machine cannot run them.
        """
        wanted = Options(**options)  # type: ignore[arg-type]
        self._check(wanted)
        if not self._user_key:
            self._user_key = make_key(self.identity)
        new = []
        for _ in range(number):
            name = f"{self.prefix}{len(self.hosts) + 1:02d}"
            host = SshHost(name, self.folder / name, self.home, self._user_key, wanted)
            self.hosts.append(host)
            new.append(host)
            host.boot()
        for host in new:
            host.await_listening()
        self._write_client_files()
        return new

    def ssh(self, *arguments: str) -> list[str]:
        """Give the command line of a plain `ssh` that knows these hosts and nothing else."""
        return ["ssh", "-F", str(self.home / ".ssh" / "config"), *arguments]

    def disconnect(self) -> None:
        """Break every connection and take no new ones; workers see the end of their input."""
        for host in self.hosts:
            host.disconnect()

    def crash(self) -> None:
        """End every process of every host."""
        for host in self.hosts:
            host.crash()

    def _check(self, options: Options) -> None:
        missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
        if find_sshd() is None:
            missing.insert(0, "sshd")
        if missing:
            raise UnavailableError(f"OpenSSH is not installed here: no {', '.join(missing)}")
        if os.geteuid() == 0:
            # sshd insists on this folder, which the service's own start would make.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        if options.hide:
            tried = subprocess.run(
                ["unshare", "--mount", "true"], capture_output=True, text=True, check=False
            )
            if tried.returncode != 0:
                raise UnavailableError(f"no mount namespace of one's own here: {tried.stderr.strip()}")

    def _write_client_files(self) -> None:
        folder = self.home / ".ssh"
        known, config = [], []
        for host in self.hosts:
            if not host.options.unknown_key:
                known.append(f"[127.0.0.1]:{host.port} {host.known_key}\n")
            config.append(
                f"Host {host.name}\n  HostName 127.0.0.1\n  Port {host.port}\n"
                f"  User {pwd.getpwuid(os.geteuid()).pw_name}\n  IdentityFile {self.identity}\n"
            )
        config.append(
            f"Host *\n  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n  IdentitiesOnly yes\n  BatchMode yes\n  LogLevel ERROR\n"
        )
        (folder / "known_hosts").write_text("".join(known))
        (folder / "config").write_text("\n".join(config))
        folder.chmod(0o700)
        (folder / "config").chmod(0o600)
