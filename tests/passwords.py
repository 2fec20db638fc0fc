"""OpenSSH servers on loopback that let a user in by password: for what is done before their key is there.

The user exists for these servers only: each runs in a mount namespace of its own, over whose /etc/passwd and
/etc/shadow copies with one line more are mounted. Needs root. The user's number is 0, because an ordinary one
could not enter the folders of a test. Knows nothing of pytest or of pisa_fab.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from processes import wait_for
from sshd import LISTENING, SEARCH, UnavailableError, find_sshd, free_port, link_python, make_key

USER = "anna"
PASSWORD = "open sesame"
# Of PASSWORD, as crypt(3) makes it with SHA-512.
HASH = (
    "$6$pisafabtests$YtIdIjdMNKRNLzkiB7RVBPA4PxR47pPVQTViZEaYyeJx49kDiFh.TjLVMj09k2bQsNU7YsSLq/hrXiDtC9CG0."
)


class PasswordHost:
    """One sshd whose user has this home there, and that wants a password until a key is in it."""

    def __init__(self, name: str, folder: Path, home: Path) -> None:
        """Start it. Raises UnavailableError where this machine cannot."""
        if os.geteuid() != 0:
            raise UnavailableError("a user of one's own needs root")
        tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
        if tried.returncode != 0 or find_sshd() is None:
            raise UnavailableError(f"no sshd, or no mount namespace of one's own: {tried.stderr.strip()}")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.name = name
        self.folder = folder
        self.home = home
        self.port = free_port()
        self.log = folder / "sshd.log"
        link_python(folder / "bin")
        home.mkdir(exist_ok=True)
        self.key = make_key(folder / "host_key")
        self._write_files()
        self.listener = self._start()

    @property
    def authorized(self) -> Path:
        """The file with the keys that the user may come with."""
        return self.home / ".ssh" / "authorized_keys"

    @property
    def client_config(self) -> str:
        """What a client's ssh_config says of it."""
        return f"Host {self.name}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {USER}\n"

    @property
    def known_hosts(self) -> str:
        """Its line of known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.key}\n"

    def accepted(self, way: str) -> int:
        """Count the logins by `password` or `publickey`."""
        return self.log.read_text().count(f"Accepted {way} ")

    def refused(self) -> int:
        """Count the passwords that were wrong."""
        return self.log.read_text().count("Failed password ")

    def stop(self) -> None:
        """End it; its sessions end with their clients."""
        self.listener.terminate()
        self.listener.wait()

    def _write_files(self) -> None:
        passwd = f"{USER}:x:0:0::{self.home}:/bin/sh\n"
        (self.folder / "passwd").write_text(Path("/etc/passwd").read_text() + passwd)
        (self.folder / "shadow").write_text(
            Path("/etc/shadow").read_text() + f"{USER}:{HASH}:20000:0:99999:7:::\n"
        )
        (self.folder / "shadow").chmod(0o600)
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f'HostKey "{self.folder}/host_key"',
            "PidFile none",
            "UsePAM no",
            "PermitRootLogin yes",
            "PasswordAuthentication yes",
            "KbdInteractiveAuthentication no",
            "LogLevel VERBOSE",
            f'SetEnv "PATH={self.folder}/bin:{SEARCH}" "PISA_TEST_HOST={self.folder}"',
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _start(self) -> subprocess.Popen[bytes]:
        mounts = [
            f"mount --bind {shlex.quote(str(self.folder / name))} /etc/{name}"
            for name in ("passwd", "shadow")
        ]
        server = [str(find_sshd()), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        script = " && ".join([*mounts, "exec " + shlex.join(server)])
        with self.log.open("wb") as log:
            listener = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": SEARCH},
            )
        wait_for(lambda: LISTENING in self.log.read_text() or listener.poll() is not None, self.name)
        if listener.poll() is not None:
            raise UnavailableError(f"sshd does not start: {self.log.read_text().strip()}")
        return listener
