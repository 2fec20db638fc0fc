"""What OpenSSH's configuration says of a host, by asking `ssh -G`; and the ProxyCommand that it may name.

Paramiko's own reader knows no Include, takes a Match that it does not understand for one that fits, and
passes over host key settings. No Fabric and no Paramiko here: where there is no `ssh`, `pool` gives what
Paramiko reads to `Settings.of`, which both ways end in.

`~` is $HOME throughout. OpenSSH takes the home from the password database, so where $HOME is another folder
it is given the files that lie there.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pisa_fab.known_hosts import SYSTEM_FILES, USER_FILES

ASK_TIMEOUT = 30  # seconds; a `Match exec` may run anything
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
DEFAULT_IDENTITIES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")
STRICTNESS = {"true": "yes", "false": "no", "off": "no"}  # as `ssh -G` calls them, and as a person does

Values = Mapping[str, Sequence[str]]  # by keyword in lower case, in the order in which they came


class SshConfigError(Exception):
    """`ssh -G` failed; the message is ssh's own line."""


@dataclass(frozen=True, slots=True)
class Address:
    """What ssh is asked for: a name of its configuration or of the network; None leaves it to ssh."""

    name: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `[user@]host[:port]` or `ssh://...`, as ProxyJump has it; an IPv6 address in brackets."""
        rest = text.strip().removeprefix("ssh://").rstrip("/")
        user, _, rest = rest.rpartition("@")
        name, bracket, port = rest.removeprefix("[").partition("]") if rest.startswith("[") else ("", "", "")
        if bracket:
            port = port.removeprefix(":")
        elif rest.count(":") == 1:
            name, _, port = rest.partition(":")
        else:
            name = rest
        return cls(name, user or None, int(port) if port.isdecimal() else None)


def parse_jumps(text: str) -> tuple[Address, ...]:
    """Read the value of ProxyJump: the hosts to pass through, the first one first; `none` for none."""
    if text.strip().lower() in ("", "none"):
        return ()
    return tuple(Address.parse(hop) for hop in text.split(","))


@dataclass(frozen=True, slots=True)
class Settings:
    """What applies to one host. Paths are absolute.

    Attributes:
        hostname, port, user: where to connect, and as whom.
        identities: private key files, whether they exist or not, in ssh's order.
        identities_named: whether a person named them; otherwise they are those that ssh tries by itself.
        identities_only: whether an agent's other keys stay out of it.
        agent: the socket of the agent, "" for no agent.
        jumps: the hosts to pass through, the first one first.
        proxy_command: what carries the connection, as it was written (see `expand`), or "".
        host_key_alias: the name that the host has in known_hosts, "" for its own.
        user_known_hosts, global_known_hosts: the files; a new key goes into the first.
        strictness: `yes`, `ask`, `accept-new` or `no` (StrictHostKeyChecking).
        hash_known_hosts: whether names are hashed when they are saved.
        connect_timeout: seconds, None where nothing is said.
    """

    hostname: str
    port: int
    user: str
    identities: tuple[Path, ...] = ()
    identities_named: bool = False
    identities_only: bool = False
    agent: str = ""
    jumps: tuple[Address, ...] = ()
    proxy_command: str = ""
    host_key_alias: str = ""
    user_known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    strictness: str = "ask"
    hash_known_hosts: bool = False
    connect_timeout: int | None = None

    @classmethod
    def of(cls, values: Values, address: Address, defaults: Sequence[str] = DEFAULT_IDENTITIES) -> Settings:
        """Make them of keywords and values; `defaults` are the key files that ssh tries by itself."""

        def first(keyword: str, otherwise: str = "") -> str:
            found = values.get(keyword)
            return found[0] if found else otherwise

        alias = first("hostkeyalias")
        hostname = first("hostname", address.name)
        port = int(first("port", str(address.port or 22)))
        user = first("user", address.user or local_user())
        tokens = tokens_of(address.name, hostname, port, user, alias)
        files = values.get("identityfile") or list(defaults)
        command = first("proxycommand")
        timeout = first("connecttimeout")
        strictness = first("stricthostkeychecking", "ask").lower()
        return cls(
            hostname,
            port,
            user,
            tuple(at_home(expand(file, tokens)) for file in files if file != "none"),
            list(files) != list(defaults),
            first("identitiesonly") == "yes",
            agent_socket(first("identityagent")),
            parse_jumps(expand(first("proxyjump"), tokens)),
            "" if command == "none" else command,
            alias,
            split_files(first("userknownhostsfile", " ".join(USER_FILES))),
            split_files(first("globalknownhostsfile", " ".join(SYSTEM_FILES))),
            STRICTNESS.get(strictness, strictness),
            first("hashknownhosts") == "yes",
            int(timeout) if timeout.isdecimal() and int(timeout) else None,
        )

    def expand(self, command: str, name: str) -> str:
        """Give a ProxyCommand for the host that ssh is asked for by this name, ready for a shell."""
        tokens = tokens_of(name, self.hostname, self.port, self.user, self.host_key_alias)
        return expand(command, {token: shlex.quote(value) for token, value in tokens.items()})


class OpenSSH:
    """The `ssh` of this machine, asked what its configuration says. Several threads may ask at once."""

    def __init__(self, file: str = "") -> None:
        """Let it read `file` as with `ssh -F`; "" for the user's and the system's files, `none` for none."""
        self.options = ["-F", file] if file else files_of_home()

    @staticmethod
    def is_here() -> bool:
        """Whether there is an `ssh` in PATH."""
        return shutil.which("ssh") is not None

    @cached_property
    def default_identities(self) -> list[str]:
        """The key files that this ssh tries where nobody names one."""
        return list(read(run(["-F", "none"], Address("localhost"))).get("identityfile", []))

    def ask(self, address: Address) -> Settings:
        """Say what applies to a host. Raises SshConfigError."""
        return Settings.of(read(run(self.options, address)), address, self.default_identities)


def run(options: Sequence[str], address: Address) -> str:
    """Give what `ssh -G` prints. Raises SshConfigError."""
    argv = ["ssh", "-G", *options]
    argv += ["-l", address.user] if address.user else []
    argv += ["-p", str(address.port)] if address.port else []
    try:
        done = subprocess.run(
            [*argv, "--", address.name],  # a name that begins with - is no option
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=ASK_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SshConfigError(f"ssh -G {address.name} does not end; is there a Match exec?") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line and not line.startswith("Pseudo-terminal")]
        raise SshConfigError(next(iter(said), f"ssh -G {address.name} failed"))
    return done.stdout


def read(text: str) -> dict[str, list[str]]:
    """Read the lines of `ssh -G`: a keyword in lower case and its value."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword.lower(), []).append(value)
    return values


# -- users, homes, files, tokens ---------------------------------------------------------------------------


def local_user() -> str:
    """Give who ssh takes us for."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that runs under a number that nobody has
        return os.environ.get("USER", str(os.getuid()))


def real_home() -> Path:
    """Give the home that ssh takes for ours."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


def files_of_home() -> list[str]:
    """Give the option that makes ssh read the configuration in $HOME; none where that is the real home."""
    if Path.home() == real_home():
        return []
    for file in (Path("~/.ssh/config").expanduser(), SYSTEM_CONFIG):
        if file.exists():
            return ["-F", str(file)]
    return ["-F", "none"]


def at_home(name: str) -> Path:
    """Give the path of a file that ssh named; what is in the .ssh of the real home is in that of $HOME."""
    path = Path(name).expanduser()
    real = real_home() / ".ssh"
    if path.is_relative_to(real):
        path = Path("~/.ssh").expanduser() / path.relative_to(real)
    return path.absolute()


def split_files(text: str) -> tuple[Path, ...]:
    """Read a list of files. `ssh -G` does not quote: of words that are a file together that file is taken."""
    words = [] if text == "none" else text.split(" ")
    files = []
    while words:
        sizes = (size for size in range(len(words), 1, -1) if at_home(" ".join(words[:size])).exists())
        size = next(sizes, 1)
        files.append(at_home(" ".join(words[:size])))
        words = words[size:]
    return tuple(files)


def agent_socket(named: str) -> str:
    """Give the agent's socket, as IdentityAgent names it: a path, a variable, `none`, or nothing."""
    if named in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK", "")
    if named == "none":
        return ""
    if named.startswith("$"):
        return os.environ.get(named[1:].strip("{}"), "")
    return str(Path(named).expanduser())


def tokens_of(name: str, hostname: str, port: int, user: str, alias: str) -> dict[str, str]:
    """Give what the %-tokens of ssh_config(5) stand for; not %C and those that need a connection."""
    here = socket.gethostname()
    return {
        "%": "%",
        "d": str(Path.home()),
        "h": hostname,
        "i": str(os.getuid()),
        "k": alias or name,
        "L": here.partition(".")[0],
        "l": here,
        "n": name,
        "p": str(port),
        "r": user,
        "u": local_user(),
    }


def expand(text: str, tokens: Mapping[str, str]) -> str:
    """Replace the %-tokens; one that is not known stays."""
    pieces = iter(text.split("%"))
    done = [next(pieces)]
    for piece in pieces:
        if not piece:  # two in a row
            done.append(tokens["%"] + next(pieces, ""))
        elif piece[0] in tokens:
            done.append(tokens[piece[0]] + piece[1:])
        else:
            done.append("%" + piece)
    return "".join(done)


# -- ProxyCommand ------------------------------------------------------------------------------------------


class ProxyCommand:
    """A command of the user's SSH configuration that carries a connection, run as ssh runs it."""

    def __init__(self, command: str) -> None:
        """Start it in a session of its own, so that Ctrl-C leaves it to us."""
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the command
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self.complaints,
                start_new_session=True,
            )

    def complaint(self) -> str:
        """Give the last line that it wrote to standard error, or ""."""
        self.complaints.seek(0)
        lines: Iterable[str] = self.complaints.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(list(lines)) if line.strip()), "")

    def close(self) -> None:
        """End it. Never blocks, not even where the command does not end."""
        self.socket.close()
        if self.process.poll() is None:
            self.process.terminate()
