"""The template: a Python that has imported what jobs need, and becomes one of them whenever it is told to.

It runs on the hosts, in the jobs' own Python: standard library only, Python 3.8 or newer, and nothing of
pisa_fab is there but `imports`. Who starts it, speaks with it and ends it is `template`; which jobs there are
it does not know.

It is started as every job would be, `python script.py ...`, with this program put in the way as the module
`sitecustomize`: that is the last thing which a Python imports before it opens the script. Here it waits. Each
job is a fork of it that simply goes on: this module ends, and Python itself opens the script, runs it and
ends, as it always does. So nothing here imitates how a Python runs a script: `__main__`, tracebacks, exit
codes and the end of the interpreter are the real ones, of whatever version it is.

The conversation is one packet a message, as `marshal` writes it. First the worker says what to import (True
for what the script imports, or a list of modules) and what PYTHONPATH really is, None for nothing. The
template answers ("ready", names of the variables that were read meanwhile), or ("failed", why) and ends.
Then, for each job: (number, arguments, changes of the environment, mark), and with it the descriptors of its
output, its errors and the end of a pipe; and one more before these, of a file that holds the message, if it
is long. The answers are ("forked", number, pid), ("refused", number, errno) or ("stale", number, what has
changed). A job does nothing before a byte comes through its pipe, and ends if that is closed instead.

The job's process is a grandchild whose parent ends at once, so that the worker, which adopts orphans, is told
of its end by the kernel, with what it has used, as of any job that it has started itself.
"""

from __future__ import annotations

import _socket  # `socket` itself would be there in jobs that have not imported it
import atexit
import gc
import io
import marshal
import os
import sys

from pisa_fab import imports

TYPE_CHECKING = False  # without importing typing, for the same reason
if TYPE_CHECKING:
    from typing import Any

SELF = "sitecustomize"  # the name by which Python imports this program
PARCEL, CHANNEL = 3, 4  # descriptors: the archive with this program, the conversation
ENTRY = "/proc/self/fd/3"  # of sys.path, where Python finds this program
MESSAGE_BYTES = 1 << 18
DESCRIPTORS = 4  # the most that come with a message
BROKEN = 70  # exit status after a mistake in this program
NOT_KEPT = {"sys", "builtins", "__main__", "__mp_main__", SELF}  # modules that Python ends in ways of its own
MARK = b"PISA_MARK="
ARGUMENTS, ENVIRONMENT, FIRST_FIELD = 48, 50, 3  # fields of /proc/PID/stat, see proc(5)


def main() -> BaseException | None:
    """Be the template. Returns in its forks only, to go on: what `sitecustomize` is to end with, if badly."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, CHANNEL)
    wanted, path = marshal.loads(channel.recv(MESSAGE_BYTES))
    hide(path)
    own = sys.modules.pop(SELF)
    ending = real_sitecustomize()
    template = Template(channel)
    atexit.register(template.spare)  # before anybody else: so it comes last
    gc.freeze()  # `kept`, of all things
    try:
        template.find_memory()
        names, template.printed = imports.prepare(wanted, sys.argv)
        template.sources = imports.sources()
    except (imports.UnfitError, OSError) as error:
        channel.send(marshal.dumps(("failed", str(error)), 2))
        os._exit(0)
    template.keep()
    channel.send(marshal.dumps(("ready", names), 2))
    template.serve()
    if ending is not None:
        sys.modules[SELF] = own  # for whoever removes what could not be imported
    return ending


def hide(path: str | None) -> None:
    """Undo what has brought this program here; `path` is the real PYTHONPATH."""
    os.close(PARCEL)
    sys.path[:] = [entry for entry in sys.path if entry != ENTRY]
    sys.path_importer_cache.pop(ENTRY, None)
    importer: Any = sys.modules.get("zipimport")
    if importer is not None:
        importer._zip_directory_cache.pop(ENTRY, None)
    for name in (__name__, imports.__name__, "pisa_fab"):
        sys.modules.pop(name, None)  # a job may have the real one
    os.environ.pop("PYTHONPATH", None)
    if path is not None:
        os.environ["PYTHONPATH"] = path


def real_sitecustomize() -> BaseException | None:
    """Import the module whose name was taken; give what that ended with, None if it is there."""
    try:
        __import__(SELF)
    except Exception as error:  # whatever it is, `site` will say it
        return error
    return None


class Template:
    """What is kept from one fork to the next.

    Attributes:
        printed: what modules have printed while they were imported, to standard output and to errors.
        sources: files of modules that may change while jobs run, and what they looked like.
        mark, arguments: where in memory the mark stands that shows whose process this is, and the arguments
            of its command line: first address, and how many bytes.
        kept: modules that are not taken apart at the end of a job.
    """

    def __init__(self, channel: _socket.socket) -> None:
        self.channel = channel
        self.printed: tuple[bytes, bytes] = (b"", b"")
        self.sources: dict[str, tuple[int, ...]] = {}
        self.mark = self.arguments = (0, 0)
        self.kept: list[tuple[str, object]] = []
        self.kept.append(("", self.kept))  # a cycle that no collection looks at is never taken apart

    def find_memory(self) -> None:
        """Find what others see of this process in its memory. Raises OSError."""
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        begin, end, environment, environment_end = map(
            int, fields[ARGUMENTS - FIRST_FIELD : ENVIRONMENT - FIRST_FIELD + 2]
        )
        memory = os.open("/proc/self/mem", os.O_RDWR)
        try:
            line = os.pread(memory, end - begin, begin)
            block = os.pread(memory, environment_end - environment, environment)
            os.pwrite(memory, line, begin)  # where that is refused, it is now
        finally:
            os.close(memory)
        variables = block.split(b"\0")
        own = next((variable for variable in variables if variable.startswith(MARK)), b"")
        words = line.split(b"\0")
        if not own or len(words) < 3:
            raise OSError("its environment does not show whose process it is")
        before = block.index(b"\0" + own) + 1 if variables[0] != own else 0
        self.mark = (environment + before + len(MARK), len(own) - len(MARK))
        used = len(words[0]) + len(words[1]) + 2
        self.arguments = (begin + used, len(line) - used)

    def keep(self) -> None:
        """Have what is installed outlive the interpreters of jobs, and not be looked at by their collections.

        Either would write to memory that the forks share. Modules of the user's own are left to Python, so
        that finalisers are called as always; then collections have to look at everything.
        """
        own = {id(module) for _, module in imports.own_modules()}
        for name, module in sys.modules.items():
            if name not in NOT_KEPT and id(module) not in own:
                self.kept.append((name, module))
        if not own:
            gc.freeze()
        main, before = type(sys)("__main__"), sys.modules["__main__"]  # one that collections do look at
        main.__dict__.update(before.__dict__)
        for name in [name for name, module in sys.modules.items() if module is before]:
            sys.modules[name] = main

    def spare(self) -> None:
        """Leave out, at the end of a job, taking apart what it has in common with all others.

        That would take longer than all the rest: it writes to nearly every page that the fork had shared. It
        could be missed for files that such modules hold, which is why they are written here.
        """
        for found in gc.get_objects():
            if type(found) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
                try:
                    found.flush()
                except (OSError, ValueError):
                    pass  # closed, or what its own end will say
        for name, _ in self.kept:
            sys.modules.pop(name, None)

    # -- jobs -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Make jobs as long as the worker asks for them. Returns in the jobs."""
        while True:
            message, descriptors = self.hear()
            number = message[0]
            changed = imports.changed(self.sources)
            if changed:
                self.channel.send(marshal.dumps(("stale", number, changed), 2))
            else:
                reader, writer = os.pipe()
                parent = os.fork()
                if not parent:
                    os.close(reader)
                    if fork(writer):
                        os._exit(0)
                    os.close(writer)
                    self.become(descriptors, *message[1:])
                    return
                os.close(writer)
                os.waitpid(parent, 0)  # from now on the worker is the job's parent
                said = int(os.read(reader, 32) or b"0")
                os.close(reader)
                answer = ("forked", number, said) if said > 0 else ("refused", number, -said)
                self.channel.send(marshal.dumps(answer, 2))
            for descriptor in descriptors:
                os.close(descriptor)

    def hear(self) -> tuple[Any, list[int]]:
        """Wait for an order; give it with its descriptors. Ends this process when there is no worker."""
        size = 4  # bytes of a descriptor
        data, ancillary, _, _ = self.channel.recvmsg(MESSAGE_BYTES, _socket.CMSG_LEN(DESCRIPTORS * size))
        if not data:
            os._exit(0)
        descriptors = []
        for _, _, packed in ancillary:
            descriptors += [
                int.from_bytes(packed[at : at + size], sys.byteorder) for at in range(0, len(packed), size)
            ]
        if len(descriptors) == DESCRIPTORS:
            with open(descriptors.pop(0), "rb") as file:
                file.seek(0)
                data = file.read()
        return marshal.loads(data), descriptors

    def become(
        self,
        descriptors: list[int],
        arguments: list[bytes],
        changes: dict[bytes, bytes | None],
        mark: bytes,
    ) -> None:
        """Turn this fork into the job, and wait until it may begin."""
        self.channel.close()
        out, err, gate = descriptors
        for descriptor, place in ((out, 1), (err, 2)):
            os.dup2(descriptor, place)
            os.close(descriptor)
        for name, value in changes.items():
            if value is None:
                os.environb.pop(name, None)
            else:
                os.environb[name] = value
        words = [os.fsdecode(word) for word in arguments]
        sys.argv[1:] = words
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[2:] = words
        self.show(mark, b"".join(word + b"\0" for word in arguments))
        numpy: Any = sys.modules.get("numpy.random")
        if numpy is not None:
            numpy.seed()  # that of `random` Python itself sows anew in every fork
        if not os.read(gate, 1):
            os._exit(0)
        os.close(gate)
        for place, text in zip((1, 2), self.printed):
            if text:
                os.write(place, text)

    def show(self, mark: bytes, arguments: bytes) -> None:
        """Have the kernel show this process by its own mark and arguments, as far as there is room."""
        memory = os.open("/proc/self/mem", os.O_RDWR)
        for text, (address, room) in (
            (mark, self.mark),
            (arguments[: self.arguments[1] - 1], self.arguments),
        ):
            os.pwrite(memory, text.ljust(room, b"\0"), address)
        os.close(memory)


def fork(writer: int) -> int:
    """Fork; give 0 in the job. In its parent write its pid to a pipe, or why there is none as -errno."""
    try:
        job = os.fork()
    except OSError as error:
        os.write(writer, b"%d" % -(error.errno or 1))
        return -1
    if job:
        try:
            os.setpgid(job, job)  # before anybody signals that group
        finally:
            os.write(writer, b"%d" % job)
    return job
