"""What a host must have before it can do the work: workdir, run directory, venv, and the folders of outputs.

Travels to the host with `worker`, so it needs nothing but the standard library of Python 3.8. A network home
may show things late: how long to look for them again is `worker`'s business.
"""

from __future__ import annotations

import os

from pisa_fab.place import NotVisibleError, UnusableError

TYPE_CHECKING = False  # without importing typing, which would slow down the start on every host
if TYPE_CHECKING:
    from typing import Any


def inspect(setup: dict[str, Any]) -> dict[str, int]:
    """Go to workdir; give the folders of outputs, open. Raises UnusableError.

    Workdir, run directory and venv have to be what the head sees. Whatever is mounted over the folders later,
    these are the ones.
    """
    folder = setup["workdir"]
    try:
        os.chdir(folder)
    except OSError as error:
        raise UnusableError(f"no such folder here: {folder} ({error.strerror})") from error
    check_nonce(setup["nonce_file"], setup["nonce"])
    if setup["venv"] is not None and not os.access(os.path.join(setup["venv"], "bin", "python"), os.X_OK):
        raise UnusableError("no such venv here: " + setup["venv"])
    return open_folders(setup["folders"])


def check_nonce(path: str, nonce: str) -> None:
    """Raise NotVisibleError unless the file is there that proves that this host sees the run directory.

    A network file system may show a new file only after seconds, and `open` may say that it is not there when
    a listing of its folder, which asks the server again, already has it.
    """
    problem = "another folder of that name"
    try:
        os.listdir(os.path.dirname(path))
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read() == nonce:
                return
    except OSError as error:
        problem = str(error.strerror)
    folder = os.path.dirname(os.path.dirname(path))
    raise NotVisibleError(f"does not see the run directory {folder} ({problem})")


def open_folders(paths: dict[str, str]) -> dict[str, int]:
    """Open folders, and give their descriptors by the same names. Raises NotVisibleError."""
    folders: dict[str, int] = {}
    try:
        for name, path in paths.items():
            os.listdir(os.path.dirname(path))  # asks the server again
            folders[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        for descriptor in folders.values():
            os.close(descriptor)
        raise NotVisibleError(f"does not see the folder {path} ({error.strerror})") from error
    return folders
