"""The program that `check` sends to a host: it looks around, says what it finds, and leaves nothing behind.

One file, standard library only, like the worker; but Python 3.6 is enough, so that a host whose Python is too
old for the worker can say just that. It judges nothing: what a finding means is the head's business.

The conversation is one JSON object a line. From the head:

    clock      answered at once with `at`, the seconds of this machine's wall clock
    look       workdir, python (of the venv, or null), folder (of the run), nonce, nonce_file, answer_file
    authorize  blob, line: have sshd let this public key in
    leave      like the end of the conversation: remove the answer file and end

From here: `step`, the name of what comes next, before everything that may hang; `found`, after it; `end`.
What came before a hang is known that way, and what is needed comes before what is only nice to know. Nothing
that a file or a person wrote goes through a shell.
"""

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Tuple

MARKER = "pisa_fab probe"  # the head skips everything before this and the token behind it
VISIBLE_PATIENCE = 4.0  # seconds for a new file to show on a network home
VISIBLE_INTERVAL = 0.2
PYTHON_PATIENCE = 8.0  # seconds that the venv's Python may take to start
TOOL_PATIENCE = 3.0  # seconds that `who` and `quota` may take
UTMP = "/var/run/utmp"
UTMP_RECORD = struct.Struct("=h2xi32s4s32s256s52x")  # kind, pid, terminal, id, user, host
USER_PROCESS = 7  # the kind of a record of utmp that is a person
# Where people sit, or have a terminal. What else is listed are sessions like the one we came by.
SEATS = re.compile(r"(pts/|tty|:|seat|console|hvc)")

Finding = Dict[str, Any]


# -- what is needed ------------------------------------------------------------------------------------------


def machine() -> Finding:
    """Say what this machine is, and how busy."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return {"python": platform.python_version(), "cores": cores, "load": round(os.getloadavg()[0], 2)}


def enter(folder: str) -> Finding:
    """Go where jobs would be started."""
    try:
        os.chdir(folder)
    except OSError as error:
        return {"workdir_error": error.strerror}
    return {}


def answer(order: Finding) -> Finding:
    """Read the file that the head wrote, and write one for it.

    A network file system may show a new file only after seconds, and `open` may say that it is not there when
    a listing of its folder, which asks the server again, already has it.
    """
    until = time.monotonic() + VISIBLE_PATIENCE
    while True:
        problem = "another folder of that name"
        try:
            os.listdir(order["folder"])
            with open(order["nonce_file"], encoding="ascii", errors="replace") as file:
                if file.read() == order["nonce"]:
                    break
        except OSError as error:
            problem = str(error.strerror)
        if time.monotonic() >= until:
            return {"sees": False, "sees_error": problem}
        time.sleep(VISIBLE_INTERVAL)
    try:
        descriptor = os.open(order["answer_file"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(order["nonce"])
    except OSError as error:
        return {"sees": True, "answer_error": error.strerror}
    return {"sees": True, "answered": True}


def version_of(python: str) -> Finding:
    """Start the Python of a venv and give its version."""
    if not os.access(python, os.X_OK):
        # A venv's python is a link; on a host that lacks what it leads to the venv is there and useless.
        lost = os.path.realpath(python) if os.path.lexists(python) else ""
        return {"venv_error": "missing", "venv_lost": lost}
    # Not isolated (-I) from the venv's user: as a job would start it, but for its own variables.
    argv = [python, "-c", "import platform; print(platform.python_version())"]
    status, out = output_of(argv, PYTHON_PATIENCE, subprocess.STDOUT)
    said = out.strip().splitlines()[-1] if out.strip() else "nothing was said"
    if status is None:
        return {"venv_error": f"does not answer within {PYTHON_PATIENCE:.0f} s"}
    return {"venv_python": said} if status == 0 else {"venv_error": f"does not start ({said[:200]})"}


# -- what is nice to know ------------------------------------------------------------------------------------


def disk(folder: str) -> Finding:
    """Say how much room the file system of a folder has, in bytes."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return {}
    return {"free": room.f_bavail * room.f_frsize, "size": room.f_blocks * room.f_frsize}


def quota(folder: str) -> Finding:
    """Say how much of a quota, if there is one, is used on the file system of a folder, in bytes."""
    program = shutil.which("quota")
    if program is None:
        return {}
    _, out = output_of([program, "-w", "-p"], TOOL_PATIENCE)
    return quota_on(out, source_of(folder))


def quota_on(listing: str, source: str) -> Finding:
    """Read what `quota -w -p` says of one file system: source, used, soft and hard limit in KiB, and more."""
    for line in listing.splitlines():
        fields = line.split()
        numbers = [field.rstrip("*") for field in fields[1:4]]
        if len(numbers) == 3 and fields[0] == source and all(number.isdigit() for number in numbers):
            used, soft, hard = (int(number) * 1024 for number in numbers)
            limits = [limit for limit in (soft, hard) if limit]
            return {"quota_used": used, "quota_limit": min(limits)} if limits else {}
    return {}


def source_of(folder: str) -> str:
    """Give what is mounted where a folder lies: `/dev/sda1`, `server:/home`; "" if that is not known."""
    best = ("", "")
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return ""
    for source, place, *_ in mounts:
        # Blanks and the like are written as \040.
        plain = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), place)
        if (folder + "/").startswith(plain.rstrip("/") + "/") and len(plain) >= len(best[0]):
            best = (plain, source)
    return best[1]


def people() -> Finding:
    """Say who has a session at this machine: names, in the order in which they came."""
    program = shutil.which("who")
    status, out = output_of([program], TOOL_PATIENCE) if program else (None, "")
    if status == 0:
        seen = [(fields[0], fields[1]) for fields in map(str.split, out.splitlines()) if len(fields) > 1]
    else:
        seen = list(sessions())
    names = [name for name, line in seen if SEATS.match(line)]
    return {"people": sorted(set(names), key=names.index)}


def sessions() -> Iterator[Tuple[str, str]]:
    """Give user and terminal of every session that utmp(5) knows."""
    try:
        with open(UTMP, "rb") as file:
            data = file.read()
    except OSError:
        return
    for start in range(0, len(data) - UTMP_RECORD.size + 1, UTMP_RECORD.size):
        kind, _, line, _, user, _ = UTMP_RECORD.unpack_from(data, start)
        if kind == USER_PROCESS:
            yield text_of(user), text_of(line)


def text_of(field: bytes) -> str:
    """Give a text that ends at the first zero byte."""
    return field.split(b"\0")[0].decode("utf-8", "replace")


def output_of(argv: List[str], patience: float, errors: int = subprocess.DEVNULL) -> Tuple[Any, str]:
    """Run a program and give its exit status and output; status None if it takes too long.

    One that cannot even be killed, because its file system hangs, is left alone.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=dict(os.environ, LC_ALL="C"),
        )
    except OSError as error:
        return error.errno, str(error.strerror)
    try:
        out, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        with suppress(OSError):  # a set-user-id program will end when it can
            os.killpg(process.pid, signal.SIGKILL)
        return None, ""
    return process.returncode, out.decode("utf-8", "replace")


# -- the public key ------------------------------------------------------------------------------------------


def authorize(blob: str, line: str) -> Finding:
    """Have sshd let the owner of a public key in: a line of ~/.ssh/authorized_keys, unless it is there."""
    home = os.path.expanduser("~")
    folder = os.path.join(home, ".ssh")
    path = os.path.join(folder, "authorized_keys")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        os.chmod(folder, 0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            lock(descriptor)
            os.fchmod(descriptor, 0o600)
            known = file.read().decode("utf-8", "replace")
            is_there = any(blob in entry.split() for entry in known.splitlines() if entry[:1] != "#")
            if not is_there:
                ending = "" if not known or known.endswith("\n") else "\n"
                file.write((ending + line + "\n").encode("utf-8"))
                os.fsync(descriptor)
        is_open = bool(os.stat(home).st_mode & 0o022)
    except OSError as error:
        return {"authorize_error": f"{error.filename or path}: {error.strerror}"}
    return {"added": not is_there, "home_is_open": is_open}


def lock(descriptor: int) -> None:
    """Wait until nobody else writes the file; go on at once where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


# -- the conversation ----------------------------------------------------------------------------------------


def look(order: Finding) -> Iterator[Finding]:
    """Give what is said while looking around."""
    yield {"found": machine()}
    yield {"step": "workdir"}
    entered = enter(order["workdir"])
    yield {"found": entered}
    if not entered:  # where the home is not mounted, nothing else of it needs to be waited for
        yield {"step": "nonce"}
        yield {"found": answer(order)}
    if not entered and order["python"] is not None:
        yield {"step": "venv"}
        yield {"found": version_of(order["python"])}
    yield {"step": "disk"}
    yield {"found": disk(order["folder"])}
    yield {"step": "quota"}
    yield {"found": quota(order["folder"])}
    yield {"step": "people"}
    yield {"found": people()}
    yield {"end": True}


def replies(order: Finding) -> Iterator[Finding]:
    """Give what is said to one message of the head."""
    if order["op"] == "clock":
        yield {"at": time.time()}
    elif order["op"] == "authorize":
        yield {"found": authorize(order["blob"], order["line"])}
    else:
        yield from look(order)


def main(token: str) -> int:
    """Say where the conversation begins, and answer until it ends."""
    # Taken off the standard streams, so that nothing else can read or write there.
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.write(sink, f"{MARKER} {token}\n".encode("ascii"))
    answer_file = ""
    try:
        with os.fdopen(source, encoding="ascii") as lines:
            for line in lines:
                order = json.loads(line)
                if order["op"] == "leave":
                    break
                answer_file = order.get("answer_file", answer_file)
                for reply in replies(order):
                    os.write(sink, json.dumps(reply).encode("ascii") + b"\n")
    except BrokenPipeError:
        return 1  # the head has gone
    finally:
        if answer_file:
            with suppress(OSError):  # the head was faster, or it was never made
                os.unlink(answer_file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
