"""The note on a PC, the order to stop and the name of a process, in a folder of the test's own.

Other users and hostile files are in tests/integration/test_here.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pisa_fab import here, notes
from pisa_fab.errors import PisaError

T = 1_800_000_000.0  # some Unix time
FACTS = {"batch": "fib_run", "head": "pc01", "contact": "anna@uni.example"}
ME = os.geteuid()


@pytest.fixture
def note(tmp_path: Path) -> Iterator[notes.Note]:
    made = notes.Note(str(tmp_path / "pisa_fab-a0b1.note"), FACTS)
    yield made
    made.remove()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def said(folder: Path) -> list[here.Reading]:
    return here.true_notes(str(folder))


# -- the note --------------------------------------------------------------------------------------------


def test_a_note_says_what_is_so_to_people_and_programs(note: notes.Note, tmp_path: Path) -> None:
    assert files(tmp_path) == []
    note.say(3, 0, 3, "", T)
    assert note.path == note.wanted
    path = Path(note.path)
    assert path.stat().st_mode & 0o777 == 0o644
    text = path.read_text()
    assert text.startswith(f"pisa_fab runs jobs of {note.user} on this PC, in the background.\n\n")
    [reading] = said(tmp_path)
    assert (reading.uid, reading.pid, reading.jobs) == (ME, os.getpid(), 3)
    expected = {"batch": "fib_run", "started from": "pc01", "running": "3", "paused": "0", "slots": "3"}
    assert expected.items() <= reading.facts.items()
    assert reading.facts["since"] == notes.moment(T)
    assert f"touch {tmp_path}/pisa_fab-{ME}.stop" in text
    assert f"kill {os.getpid()}" in text


def test_only_a_change_is_written_and_at_most_once_a_second(note: notes.Note, tmp_path: Path) -> None:
    note.say(3, 0, 3, "", T)
    first = Path(note.path).stat()
    note.say(3, 0, 3, "", T + 5)
    assert os.path.samestat(Path(note.path).stat(), first)
    note.say(2, 1, 3, "busy", T + 7)
    assert said(tmp_path)[0].facts["why"] == "busy"
    note.say(0, 3, 3, "busier", T + 7.5)
    assert said(tmp_path)[0].facts["why"] == "busy"
    note.say(0, 3, 3, "busier", T + 8.1)
    assert said(tmp_path)[0].facts["why"] == "busier"
    assert said(tmp_path)[0].facts["since"] == notes.moment(T)
    assert files(tmp_path) == ["pisa_fab-a0b1.note"]


def test_a_clock_that_is_put_back_does_not_silence_it(note: notes.Note, tmp_path: Path) -> None:
    note.say(3, 0, 3, "", T)
    note.say(1, 0, 3, "", T - 86400)
    assert said(tmp_path)[0].count("running") == 1


def test_a_note_that_somebody_removed_comes_back(note: notes.Note, tmp_path: Path) -> None:
    note.say(3, 0, 3, "", T)
    Path(note.path).unlink()
    note.say(3, 0, 3, "", T + 2)
    assert files(tmp_path) == []
    note.say(3, 0, 3, "", T + notes.LOOK_INTERVAL)
    assert said(tmp_path)[0].count("running") == 3
    Path(note.path).unlink()
    note.say(2, 0, 3, "", T + notes.LOOK_INTERVAL + 2)
    assert said(tmp_path)[0].count("running") == 2


def test_another_head_gives_other_facts(note: notes.Note, tmp_path: Path) -> None:
    note.say(3, 0, 3, "", T)
    note.update(FACTS | {"head": "pc07"})
    note.say(3, 0, 3, "", T + 2)
    assert said(tmp_path)[0].facts["started from"] == "pc07"


def test_what_others_write_steers_nothing(tmp_path: Path) -> None:
    facts = {"batch": "x\nuid: 0\nprocess: 1\u202e\x1b[2J", "head": "\x85pc01", "contact": "a" * 5000}
    note = notes.Note(str(tmp_path / "pisa_fab-a0b1.note"), facts)
    note.say(1, 0, 1, "line\rfeed\u2028", T)
    [reading] = said(tmp_path)
    assert reading.uid == ME
    assert reading.pid == os.getpid()
    assert reading.facts["batch"] == "x?uid: 0?process: 1??[2J"
    assert len(reading.facts["to ask"]) < 250
    assert Path(note.path).stat().st_size < here.MOST_BYTES
    assert all(text.isprintable() and len(text) <= 80 for text in here.block(reading, "/tmp"))
    note.remove()


def test_who_has_said_no_contact_is_named(tmp_path: Path) -> None:
    note = notes.Note(str(tmp_path / "pisa_fab-a0b1.note"), {})
    note.say(1, 0, 1, "", T)
    assert said(tmp_path)[0].facts["to ask"] == (note.full_name or note.user)
    note.remove()


def test_it_is_removed_at_the_end(note: notes.Note, tmp_path: Path) -> None:
    note.say(3, 0, 3, "", T)
    note.remove()
    assert files(tmp_path) == []
    note.remove()
    assert not note.path


def test_where_it_cannot_be_written_that_is_said_and_nothing_else_happens(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    note = notes.Note(str(folder / "pisa_fab-a0b1.note"), FACTS)
    note.say(3, 0, 3, "", T)
    assert note.trouble == f"cannot write the note {note.wanted}: No such file or directory"
    folder.mkdir()
    note.say(3, 0, 3, "", T + 2)
    assert not note.trouble
    assert said(folder)[0].jobs == 3
    note.remove()


def test_a_full_disk_leaves_the_note_as_it_was(note: notes.Note, tmp_path: Path) -> None:
    import resource
    import signal

    note.say(3, 0, 3, "", T)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        note.say(2, 0, 3, "", T + 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "File too large" in note.trouble
    assert said(tmp_path)[0].count("running") == 3
    assert files(tmp_path) == ["pisa_fab-a0b1.note"]
    note.say(2, 0, 3, "", T + 4)
    assert not note.trouble
    assert said(tmp_path)[0].count("running") == 2


def test_a_reader_always_finds_one_whole_note(note: notes.Note, tmp_path: Path) -> None:
    note.say(0, 0, 3, "", T)
    counts, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            counts.append([reading.count("running") for reading in said(tmp_path)])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 300):
        note.say(number, 0, 3, "", T + 2 * number)
    done.set()
    reader.join()
    assert counts
    seen = [number for [number] in counts]
    assert seen == sorted(seen)


def test_a_note_whose_worker_has_gone_is_not_shown_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pisa_fab-a0b1.note"
    program = (
        "import os, sys; from pisa_fab.notes import Note; note = Note(sys.argv[1], {}); "
        "note.say(3, 0, 3, '', 1.8e9); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.exists()
    assert said(tmp_path) == []
    new = notes.Note(str(path), FACTS)
    new.say(1, 0, 1, "", T)
    assert new.path == str(path)
    assert said(tmp_path)[0].pid == os.getpid()
    new.remove()


def test_the_guardian_removes_what_a_dead_worker_has_left_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "pisa_fab-a0b1.note")
    for name in ("pisa_fab-a0b1.note", "pisa_fab-a0b1.12ab.note", "pisa_fab-a0b1.12ab.new"):
        (tmp_path / name).write_text("left")
    others = ["pisa_fab-a0b1", "pisa_fab-a0b1.stop", "pisa_fab-a0b12.note", "pisa_fab-ffff.note"]
    for name in others:
        (tmp_path / name).write_text("stays")
    (tmp_path / "pisa_fab-a0b1.link.note").symlink_to(tmp_path / "pisa_fab-ffff.note")
    living = notes.Note(path, FACTS)
    living.say(1, 0, 1, "", T)
    notes.remove_notes(path)
    assert files(tmp_path) == sorted([*others, "pisa_fab-a0b1.link.note", "pisa_fab-a0b1.note"])
    living.remove()
    notes.remove_notes(str(tmp_path / "nowhere" / "pisa_fab-a0b1.note"))


def test_two_workers_with_one_path_get_a_note_each(tmp_path: Path) -> None:
    path = str(tmp_path / "pisa_fab-a0b1.note")
    first, second = notes.Note(path, FACTS), notes.Note(path, FACTS)
    first.say(1, 0, 1, "", T)
    second.say(2, 0, 2, "", T)
    assert sorted(reading.jobs for reading in said(tmp_path)) == [1, 2]
    second.say(4, 0, 4, "", T + 2)
    assert sorted(reading.jobs for reading in said(tmp_path)) == [1, 4]
    first.remove()
    second.remove()
    assert files(tmp_path) == []


# -- the order -------------------------------------------------------------------------------------------


def test_an_order_is_given_once_and_taken_back(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert notes.stop_order(ME, folder) == ""
    assert here.stop(folder).startswith("no jobs of ")
    order = notes.stop_order(ME, folder)
    who = notes.names_of(ME)[0]
    assert order.startswith(f"stopped at this PC by {who} at ")
    assert order.endswith(" (pisa-fab here --start lets it work again)")
    here.stop(folder)
    assert files(tmp_path) == [f"pisa_fab-{ME}.stop"]
    [*_, blank, line, rest] = here.describe(folder)
    assert (blank, f"{line} {rest.strip()}") == ("", f"your own jobs: {order}")
    assert here.start(folder).endswith(" may run on this PC again")
    assert files(tmp_path) == []
    assert here.start(folder).startswith("nothing was stopped")


def test_a_job_that_was_started_before_the_worker_saw_the_order_is_waited_for(
    note: notes.Note, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note.say(0, 0, 3, "", T)
    news = iter([lambda: note.say(1, 1, 3, "", T + 2), lambda: note.say(0, 1, 3, "", T + 4), note.remove])
    monkeypatch.setattr(here.time, "sleep", lambda _: next(news)())
    assert here.stop(str(tmp_path)).startswith("2 jobs ended; none will start on this PC")
    assert list(news) == []


def test_an_order_of_another_day_has_a_date(tmp_path: Path) -> None:
    path = tmp_path / f"pisa_fab-{ME}.stop"
    path.touch()
    os.utime(path, (T, T - 86400 * 400))
    assert f" on {notes.moment(T - 86400 * 400).replace(' ', ' at ')} (" in notes.stop_order(
        ME, str(tmp_path)
    )


def test_what_is_no_file_of_the_user_is_no_order(tmp_path: Path) -> None:
    folder, target = str(tmp_path), tmp_path / "target"
    target.touch()
    path = tmp_path / f"pisa_fab-{ME}.stop"
    path.symlink_to(target)
    assert notes.stop_order(ME, folder) == ""
    path.unlink()
    path.hardlink_to(target)
    assert notes.stop_order(ME, folder) == ""
    path.unlink()
    path.mkdir()
    assert notes.stop_order(ME, folder) == ""
    (tmp_path / f"pisa_fab-{ME}0.stop").touch()
    (tmp_path / f"pisa_fab-{ME}.note").touch()
    assert notes.stop_order(ME, folder) == ""
    here.stop(folder)  # and a name that is taken does not prevent one
    assert notes.stop_order(ME, folder) != ""


def test_an_order_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(PisaError, match=r"cannot write the order into .*: No such file"):
        here.stop(str(tmp_path / "nowhere"))
    assert here.start(str(tmp_path / "nowhere")).startswith("nothing was stopped")


# -- the name of a process -------------------------------------------------------------------------------

PROGRAM = """
import sys
from pisa_fab.notes import name_process
name_process(sys.stdin.read())
sys.stdout.write(open("/proc/self/comm").read() + open("/proc/self/cmdline").read())
"""


def named(title: str) -> tuple[str, str, int]:
    """Give the short and the long name of a process that has named itself, and how much room there was."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, input=title, capture_output=True, text=True, check=True)
    short, _, long = done.stdout.partition("\n")
    return short, long, sum(len(word) + 1 for word in command)


def test_a_process_gets_a_telling_name() -> None:
    short, long, room = named("pisa_fab: jobs of anna for fib_run; pisa-fab here")
    assert short == "pisa_fab"
    assert long == "pisa_fab: jobs of anna for fib_run; pisa-fab here".ljust(room, "\0")


def test_a_long_name_is_cut_and_never_runs_into_the_environment() -> None:
    _, long, room = named("pisa_fab: jobs of änna\n" + "x" * 10_000)
    assert long == ("pisa_fab: jobs of ?nna?" + "x" * room)[: room - 1] + "\0"


# -- where it runs ---------------------------------------------------------------------------------------


def pythons() -> list[str]:
    """Give every Python on PATH that runs, from the oldest that a host may have."""
    found = [path for minor in range(8, 15) if (path := shutil.which(f"python3.{minor}"))]
    return [path for path in found if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]


@pytest.mark.parametrize("python", pythons() or [sys.executable])
def test_every_python_of_a_host_can_run_it(python: str, tmp_path: Path) -> None:
    program = (
        "n = Note(sys.argv[1], {'batch': 'b'}); n.say(1, 0, 1, '', 1.8e9); print(open(n.path).read()); "
        "n.remove(); remove_notes(n.wanted); name_process('x'); print(repr(stop_order(1, sys.argv[2])))"
    )
    folder = str(Path(notes.__file__).parent)
    package = "import sys; package = sys.modules['pisa_fab'] = type(sys)('pisa_fab')"
    source = f"{package}; package.__path__ = [{folder!r}]\nfrom pisa_fab.notes import *\n{program}\n"
    path = str(tmp_path / "pisa_fab-a0b1.note")
    command = [python, "-I", "-S", "-B", "-", path, str(tmp_path)]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "\nbatch: b\n" in done.stdout
    assert done.stdout.endswith("''\n")
    assert files(tmp_path) == []
