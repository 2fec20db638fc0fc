"""What a PC made of namespaces sees of this machine's files: the commands that mount it.

A PC has folders of its own (`OWN`), and an ordinary user there must reach the shared home and the programs of
this checkout wherever they are, though they often lie below a folder that only root may enter: /root, or what
`mktemp -d` made. Interpreters, scripts and pyvenv.cfg hold absolute paths, so each folder stays at its path:
the closed folder above it is covered with an empty one, into which just what is needed is bound back.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

# /run holds the sockets of this machine's services: nscd would answer for the wrong users and hosts.
OWN = (Path("/tmp"), Path("/run"), Path("/dev/shm"))
EVERYBODY_WRITES = (Path("/tmp"), Path("/dev/shm"))


def links_on_the_way(path: Path) -> Iterator[Path]:
    """Give every symbolic link on the way to an absolute path that exists, at its real place."""
    here, rest = Path("/"), list(path.parts[1:])
    while rest:
        name = rest.pop(0)
        step = here.parent if name == ".." else here / name
        if not step.is_symlink():
            here = step
            continue
        yield step
        target = step.readlink()
        if target.is_absolute():
            here = Path("/")
        rest[:0] = [part for part in target.parts if part != "/"]


def closed_above(path: Path) -> Path | None:
    """Give the topmost folder above a real path that others may not enter, None if there is none."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None


def covers(paths: Iterable[Path]) -> list[Path]:
    """Give the folders that are replaced, so that real paths can be reached; none lies in another."""
    wanted = {*OWN, *(closed for path in paths if (closed := closed_above(path)))}
    return sorted(path for path in wanted if not wanted.intersection(path.parents))


def view(stage: Path, folders: Iterable[Path], ways: Iterable[Path]) -> list[list[str]]:
    """Give the commands that make the view of a PC in a mount namespace of its own.

    Args:
        stage: a folder for what is built before it is put in place.
        folders: what must be seen, at the same paths, with all that is in it.
        ways: paths that programs may follow to get there, through symbolic links that must be there, too.
    """
    folders = list(folders)
    links = {link for way in (*folders, *ways) for link in links_on_the_way(way)}
    real = {folder.resolve() for folder in folders}
    build: list[list[str]] = []
    place: list[list[str]] = []
    for number, cover in enumerate(covers([*real, *links])):
        new = stage / str(number)
        mode = "1777" if cover in EVERYBODY_WRITES else "0755"
        build += [
            ["mkdir", "-p", str(new)],
            ["mount", "-t", "tmpfs", "-o", f"mode={mode}", "none", str(new)],
        ]
        covered = {folder for folder in real if cover in folder.parents}
        for folder in sorted(covered):
            if not covered.intersection(folder.parents):
                target = new / folder.relative_to(cover)
                build += [["mkdir", "-p", str(target)], ["mount", "--rbind", str(folder), str(target)]]
        for link in sorted(links):
            if cover in link.parents and not covered.intersection(link.parents):
                target = new / link.relative_to(cover)
                build += [
                    ["mkdir", "-p", str(target.parent)],
                    ["ln", "-s", str(link.readlink()), str(target)],
                ]
        command = ["mount", "--rbind", str(new), str(cover)]
        # What covers the stage comes last: nothing could be taken from there afterwards.
        place.insert(len(place) if cover in stage.parents else 0, command)
    return [*build, *place]
