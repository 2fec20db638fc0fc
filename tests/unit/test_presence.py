"""Whether somebody needs the PC: the policy against a model, and a system made up of files."""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from processes import wait_for

from pisa_fab import desk
from pisa_fab.presence import Courtesy, Presence, Processors, Usage, spent

RULES: dict[str, Any] = {
    "policy": "pause",
    "idle": 900.0,
    "quiet": 300.0,
    "give_back": 600.0,
    "load": 0.5,
    "min_free_memory": 0,
    "nice": 19,
}
STRANGER = os.getuid() + 1  # so that the files of these tests belong to somebody else
DAY = 86400.0


# -- the policy ----------------------------------------------------------------------------------------


@dataclass
class Model:
    """The same policy, by counting down."""

    idle: int
    quiet: int
    limit: int
    wait_for_people: int = 0
    wait_for_load: int = 0
    begun: bool = False  # it has been free once
    bar: float = 0.0

    def look(self, step: int, age: int | None, load: int | None, pressed: bool) -> bool:
        """Say whether somebody needs the PC."""
        self.wait_for_people = max(0, self.wait_for_people - step)
        self.wait_for_load = max(0, self.wait_for_load - step)
        if age is not None:
            patience = self.quiet if self.begun else self.idle
            self.wait_for_people = max(self.wait_for_people, patience - age)
        high = load is not None and load > self.limit
        squeezed = load is not None and pressed and load >= self.limit / 2
        lasting = load is not None and self.bar > 0 and load >= 0.6 * self.bar
        if high:
            self.bar = self.limit
        elif squeezed and not self.bar:
            self.bar = self.limit / 2
        if high or squeezed or lasting:
            self.wait_for_load = self.quiet
        busy = bool(self.wait_for_people or self.wait_for_load or age == 0 or high or squeezed or lasting)
        if not busy:
            self.begun = True
            self.bar = 0.0
        return busy


SECONDS = st.integers(0, 30)
LOOKS = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.none() | st.integers(0, 40),
        st.none() | st.integers(0, 20),
        st.booleans(),
    ),
    max_size=60,
)


@example(
    idle=0,
    quiet=9,
    looks=[(1, None, 15, False), (1, None, 5, True), (8, None, 5, False), (2, None, 0, False)],
    began=0,
)
@given(idle=SECONDS, quiet=SECONDS, looks=LOOKS, began=st.integers(0, 10**6))
def test_the_policy_is_that_of_the_model(
    idle: int, quiet: int, looks: list[tuple[int, int | None, int | None, bool]], began: int
) -> None:
    model, courtesy, now = Model(idle, quiet, 10), Courtesy(idle, quiet, 10), began
    for step, age, load, pressed in looks:
        now += step
        courtesy.look(now, age, "anna", load, 50.0 if pressed else 0.0)
        assert bool(courtesy.busy) == model.look(step, age, load, pressed)


@given(idle=SECONDS, quiet=SECONDS, looks=LOOKS)
def test_it_is_free_again_exactly_when_that_was_said(
    idle: int, quiet: int, looks: list[tuple[int, int | None, int | None, bool]]
) -> None:
    courtesy, now = Courtesy(idle, quiet, 10), 0
    for step, age, load, pressed in looks:
        now += step
        courtesy.look(now, age, "anna", load, 50.0 if pressed else 0.0)
    courtesy.look(now, None, "", 0, 0.0)  # nothing happens any more
    promised = courtesy.free_in
    assert (promised is not None) == bool(courtesy.busy)
    for after in range(1, 80):
        courtesy.look(now + after, None, "", 0, 0.0)
        assert bool(courtesy.busy) == (promised is not None and after < promised)


@given(looks=LOOKS)
def test_it_never_flaps(looks: list[tuple[int, int | None, int | None, bool]]) -> None:
    courtesy, now, busy_since = Courtesy(20, 20, 10), 0, None
    for step, age, load, pressed in looks:
        now += step
        fresh = None if age is None else 0
        courtesy.look(now, fresh, "anna", load, 50.0 if pressed else 0.0)
        if not courtesy.busy:
            assert busy_since is None or now - busy_since >= 20
            busy_since = None
        elif busy_since is None:
            busy_since = now


def test_the_words_stay_the_same_as_long_as_their_cause_holds() -> None:
    courtesy = Courtesy(900, 300, 0.5)
    courtesy.look(0, None, "", 1.24, 0)
    assert (courtesy.busy, courtesy.free_in) == ("others use 1.2 cores", None)
    courtesy.look(10, 0.0, "anna is active at tty2", 0.9, 0)
    assert courtesy.busy == "others use 1.2 cores"
    courtesy.look(200, 0.0, "bert is active at tty3", 0.1, 0)
    courtesy.look(310, None, "", 0.1, 0)
    assert courtesy.busy == "bert is active at tty3"
    courtesy.look(320, 0.0, "anna is active at tty2", 0.1, 0)
    assert courtesy.busy == "bert is active at tty3"
    assert courtesy.free_in == 900


def test_a_load_between_the_two_limits_starts_nothing_and_ends_nothing() -> None:
    courtesy = Courtesy(900, 300, 0.5)
    courtesy.look(0, None, "", 0.4, 0)
    assert courtesy.busy == ""
    courtesy.look(1, None, "", 0.6, 0)
    courtesy.look(1000, None, "", 0.4, 0)
    assert courtesy.busy == "others use 0.6 cores"
    courtesy.look(1299, None, "", 0.2, 0)
    assert courtesy.free_in == 1
    courtesy.look(1300, None, "", 0.4, 0)
    courtesy.look(1600, None, "", 0.2, 0)
    assert courtesy.busy == ""


def test_pressure_counts_only_where_others_do_something() -> None:
    courtesy = Courtesy(900, 300, 0.5)
    courtesy.look(0, None, "", 0.05, 90)
    assert courtesy.busy == ""
    courtesy.look(1, None, "", 0.3, 24)
    assert courtesy.busy == ""
    courtesy.look(2, None, "", 0.3, 26)
    assert courtesy.busy == "others use 0.3 cores and have to wait for them"


def test_of_two_causes_at_once_the_person_is_named() -> None:
    courtesy = Courtesy(900, 300, 0.5)
    courtesy.look(0, 0.0, "anna is active at tty2", 2.0, 0)
    assert courtesy.busy == "anna is active at tty2"


def test_other_rules_hold_from_now_on() -> None:
    courtesy = Courtesy(900, 300, 0.5)
    courtesy.look(0, 0.0, "anna", 0.0, 0)
    courtesy.adjust(10, 1000, 60, 2.0)
    courtesy.look(10, None, "", 1.5, 0)
    assert courtesy.free_in == 890
    courtesy.adjust(10, 50, 60, 1.0)
    courtesy.look(20, None, "", 0.9, 0)
    assert courtesy.free_in == 40
    courtesy.look(60, None, "", 1.1, 0)
    assert courtesy.busy == "others use 1.1 cores"
    courtesy.look(70, None, "", 0.0, 0)
    assert courtesy.free_in == 50
    courtesy.adjust(70, 50, 20, 0.1)
    courtesy.look(80, None, "", 0.08, 0)
    assert courtesy.free_in is None
    courtesy.look(100, None, "", 0.0, 0)
    assert courtesy.busy == ""


def test_whoever_wants_nobody_looked_for_any_more_is_obeyed_at_once(pc: Pc) -> None:
    pc.terminal("tty2", 0)
    pc.login("tty2", "anna\x1b[2J")
    presence = presence_of(pc)
    assert pc.look(presence) == "anna[2J is active at tty2"
    presence.adjust({**RULES, "policy": "ignore"})
    assert (presence.busy, presence.free_in) == ("", None)
    presence.adjust(RULES)
    assert pc.look(presence) == "anna[2J is active at tty2"


# -- what processes have used ----------------------------------------------------------------------------


@dataclass
class FakeProcess:
    parent: int
    started: int
    nice: bool
    own: list[int] = field(default_factory=lambda: [0, 0])
    children: list[int] = field(default_factory=lambda: [0, 0])
    ended: bool = False

    def fields(self) -> list[bytes]:
        numbers = [0, self.parent, *[0] * 9, *self.own, *self.children, 20, 19 if self.nice else 0, 1, 0]
        return [str(number).encode() for number in [*numbers, self.started]]


LIFE = [("burn", 1), ("look", 0), ("end", 1), ("reap", 0), ("look", 0)]


@example(nice=False, steps=[("fork", 0), *LIFE])
@example(nice=True, steps=[("fork", 0), *LIFE])
@example(
    nice=False, steps=[("fork", 0), ("fork", 1), ("burn", 2), ("look", 0), ("end", 1), ("end", 1), *LIFE]
)
@given(
    nice=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(["fork", "burn", "burn", "end", "reap", "look"]), st.integers(0, 50)),
        max_size=120,
    ),
)
def test_what_processes_use_is_counted_once(nice: bool, steps: list[tuple[str, int]]) -> None:
    """Process 1 is the worker; it adopts what loses its parent."""
    table = {1: FakeProcess(0, 0, nice)}
    known: dict[int, Usage] = {}
    burned = counted = now = last = 0

    def look() -> None:
        nonlocal known, counted, last
        after = {pid: Usage(process.fields()) for pid, process in table.items()}
        counted += spent(known, after, last)
        known, last = after, now

    look()
    for do, number in [*steps, ("look", 0)]:
        now += 1
        living = [pid for pid, process in table.items() if not process.ended]
        pid = living[number % len(living)]
        if do == "fork":
            table[now + 1] = FakeProcess(pid, now, nice)
        elif do == "burn":
            table[pid].own[0] += number
            table[pid].own[1] += 7
            burned += 7 if nice else number + 7
        elif do == "end" and pid != 1:
            table[pid].ended = True
            for process in table.values():
                process.parent = 1 if process.parent == pid else process.parent
        elif do == "reap":
            for pid in [pid for pid, process in table.items() if process.ended]:
                process = table.pop(pid)
                for column in (0, 1):
                    table[process.parent].children[column] += process.own[column] + process.children[column]
        elif do == "look":
            look()
    assert counted == burned


def usage(parent: int, started: int, own: int, children: int = 0) -> Usage:
    return Usage(FakeProcess(parent, started, False, [own, 0], [children, 0]).fields())


def test_a_child_that_nobody_waited_for_hides_nothing() -> None:
    """Where SIGCHLD is ignored a process's time is in nobody's children: nothing may be taken off twice."""
    before = {1: usage(0, 0, 10), 2: usage(1, 5, 5000)}
    after = {1: usage(0, 0, 15)}
    assert spent(before, after, 1000) == 5


def test_a_parent_and_its_child_that_end_together_are_counted_once() -> None:
    before = {1: usage(0, 0, 10), 2: usage(1, 5, 100), 3: usage(2, 6, 5000)}
    after = {1: usage(0, 0, 10, children=5104)}
    assert spent(before, after, 1000) == 4


def test_what_a_process_used_before_it_was_known_is_not_ours() -> None:
    after = {7: usage(1, 5, 5000), 8: usage(1, 1003, 40)}
    assert spent({}, after, 1000) == 40


def test_a_number_that_is_given_again_is_another_process() -> None:
    before = {1: usage(0, 0, 10), 7: usage(1, 5, 5000)}
    after = {1: usage(0, 0, 10, children=5004), 7: usage(1, 1200, 30)}
    assert spent(before, after, 1000) == 34


# -- a system made up of files ---------------------------------------------------------------------------


class Pc:
    """The files that a PC shows, and a look at it every second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 5000.0
        self.cpu = [1000, 1000, 1000]  # user, nice, system
        self.logins: list[bytes] = []

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def terminal(self, line: str, idle: float) -> None:
        """Somebody typed something there so many seconds ago."""
        file = self.write(f"dev/{line}", "")
        os.utime(file, (time.time() - idle, 0))

    def login(self, line: str, user: str, host: str = "", kind: int = 7, size: int = 384) -> None:
        record = struct.pack("=h2xi32s4s32s256s", kind, 99, line.encode(), b"", user.encode(), host.encode())
        self.logins.append(record.ljust(size, b"\0"))
        self.write("run/utmp", "").write_bytes(b"".join(self.logins))

    def session(self, name: str, **settings: object) -> None:
        lines = [f"{key}={value}" for key, value in {"UID": 1234, **settings}.items()]
        self.write(f"run/systemd/sessions/{name}", "# This is private data.\n" + "\n".join(lines) + "\n")

    def keyboard(self, urbs: int, protocol: str = "01", device: str = "1-4") -> None:
        folder = "sys/bus/usb/devices"
        self.write(f"{folder}/{device}/urbnum", f"{urbs}\n")
        for name, value in (("Class", "03"), ("SubClass", "01"), ("Protocol", protocol)):
            self.write(f"{folder}/{device}:1.0/bInterface{name}", value + "\n")

    def uses(self, user: float = 0.0, nice: float = 0.0, system: float = 0.0) -> None:
        """So many cores were in use for the second that passes now."""
        hertz = os.sysconf("SC_CLK_TCK")
        self.cpu = [n + round(cores * hertz) for n, cores in zip(self.cpu, (user, nice, system), strict=True)]
        self.write("proc/stat", "cpu  {} {} {} 9 9 9 9 0 0 0\ncpu0 1 1 1 1\n".format(*self.cpu))

    def look(self, presence: Presence, seconds: float = 1.0, ours: list[int] | None = None) -> str:
        self.now += seconds
        presence.look(self.now, ours or [])
        return presence.busy


@pytest.fixture
def pc(tmp_path: Path) -> Pc:
    return Pc(tmp_path)


def presence_of(pc: Pc, uid: int = STRANGER, **rules: Any) -> Presence:
    return Presence({**RULES, **rules}, str(pc.root), uid)


def test_a_pc_that_shows_nothing_is_free(pc: Pc) -> None:
    presence = presence_of(pc, min_free_memory=1 << 30)
    pc.look(presence)
    assert (presence.busy, presence.free_in, presence.full) == ("", None, "")


def test_who_was_there_a_minute_ago_may_come_back(pc: Pc) -> None:
    pc.terminal("tty2", 60)
    pc.login("tty2", "anna")
    presence = presence_of(pc)
    assert pc.look(presence) == "anna is active at tty2"
    assert presence.free_in == pytest.approx(840, abs=5)
    for _ in range(84):
        pc.look(presence, 10)
    pc.look(presence, 10)
    assert (presence.busy, presence.free_in) == ("", None)


@pytest.mark.parametrize("size", [384, 400])
def test_a_session_that_is_idle_for_days_is_nobody_until_it_is_used(pc: Pc, size: int) -> None:
    pc.terminal("pts/3", 3 * DAY)
    pc.login("pts/9", "nobody", kind=8, size=size)
    pc.login("pts/3", "anna", "192.0.2.7", size=size)
    presence = presence_of(pc)
    assert pc.look(presence) == ""
    pc.terminal("pts/3", 3)
    assert pc.look(presence) == "anna is logged in over SSH and active (pts/3)"
    assert presence.free_in == 300
    assert pc.look(presence, 9) == "anna is logged in over SSH and active (pts/3)"
    assert presence.free_in == 291
    for _ in range(29):
        assert pc.look(presence, 10)
    assert pc.look(presence, 10) == ""


def test_a_new_login_is_somebody(pc: Pc) -> None:
    presence = presence_of(pc)
    assert pc.look(presence) == ""
    pc.terminal("pts/3", 0)
    assert pc.look(presence) == "somebody is active in a terminal (pts/3)"


def test_our_own_terminals_are_nobody_but_the_console_is(pc: Pc) -> None:
    pc.terminal("pts/3", 0)
    pc.login("pts/3", "me", "192.0.2.7")
    presence = presence_of(pc, uid=os.getuid())
    assert pc.look(presence) == ""
    pc.terminal("tty2", 0)
    pc.login("tty2", "me")
    assert pc.look(presence) == "me is active at tty2"


def test_a_login_prompt_is_nobody_until_something_is_typed_there(pc: Pc) -> None:
    pc.terminal("tty1", 0)
    presence = presence_of(pc)
    assert pc.look(presence) == ""
    pc.terminal("tty1", 30)
    assert pc.look(presence) == "somebody is active at tty1"


def test_the_time_of_day_may_be_set(pc: Pc) -> None:
    pc.terminal("tty2", DAY)
    pc.login("tty2", "anna")
    people = desk.Desk(str(pc.root), STRANGER)
    assert people.look(0.0, time.time(), False) == pytest.approx(DAY, abs=60)
    assert people.look(1.0, time.time() - 2 * DAY, False) is None
    assert people.look(2.0, time.time() + 2 * DAY, False) is None


def test_the_time_in_which_the_pc_slept_is_not_quiet(pc: Pc) -> None:
    pc.terminal("tty2", 0)
    pc.login("tty2", "anna")
    presence = presence_of(pc)
    pc.look(presence)
    assert pc.look(presence, DAY) == "anna is active at tty2"
    assert presence.free_in == pytest.approx(890, abs=5)


def test_lines_of_utmp_stay_in_dev(pc: Pc) -> None:
    pc.terminal("tty2", DAY)
    for line in ("/etc/passwd", "../run/utmp", ":0", "", "pts/../../run/utmp"):
        pc.login(line, "anna")
    presence = presence_of(pc)
    assert pc.look(presence) == ""


@pytest.mark.parametrize("data", [b"x", b"x" * 384, b"\0" * 383, b"\xff" * 400, b"\0" * 9600])
def test_a_utmp_that_cannot_be_understood_is_nobody(pc: Pc, data: bytes) -> None:
    pc.write("run/utmp", "").write_bytes(data)
    assert desk.logged_in(data) == {}
    assert pc.look(presence_of(pc)) == ""


@given(st.binary(max_size=2000))
def test_no_bytes_upset_the_reader_of_utmp(data: bytes) -> None:
    for line, (user, host) in desk.logged_in(data).items():
        assert "\0" not in line + user + host


# -- keyboard, mouse and desktops ------------------------------------------------------------------------


def seat(pc: Pc, **settings: object) -> None:
    pc.session("2", **{"USER": "anna", "ACTIVE": 1, "SEAT": "seat0", "TYPE": "wayland", **settings})


@pytest.mark.parametrize("protocol", ["01", "02"])
def test_somebody_at_a_keyboard_or_mouse_on_usb_is_seen(pc: Pc, protocol: str) -> None:
    pc.keyboard(1000, protocol)
    seat(pc, CLASS="user")
    presence = presence_of(pc)
    assert pc.look(presence) == ""
    assert pc.look(presence) == ""
    pc.keyboard(1002, protocol)
    assert pc.look(presence) == "anna is at the keyboard or mouse"


def test_somebody_at_the_login_screen_is_seen(pc: Pc) -> None:
    pc.keyboard(1000)
    seat(pc, USER="gdm", CLASS="greeter")
    presence = presence_of(pc)
    pc.look(presence)
    pc.keyboard(1001)
    assert pc.look(presence) == "somebody is at the keyboard or mouse"


def test_other_devices_on_usb_are_nobody(pc: Pc) -> None:
    pc.keyboard(1000, protocol="00")  # such as the battery of an uninterruptible power supply
    presence = presence_of(pc)
    pc.look(presence)
    pc.keyboard(2000, protocol="00")
    assert pc.look(presence) == ""


def test_a_keyboard_that_is_plugged_in_is_nobody_until_it_is_used(pc: Pc) -> None:
    pc.keyboard(1000)
    presence = presence_of(pc)
    pc.look(presence)
    pc.keyboard(5)
    assert pc.look(presence) == ""
    pc.keyboard(70, device="1-5")
    assert pc.look(presence, 10) == ""
    pc.keyboard(71, device="1-5")
    assert pc.look(presence) == "somebody is at the keyboard or mouse"


def test_waking_up_is_nobody(pc: Pc) -> None:
    pc.keyboard(1000)
    presence = presence_of(pc)
    pc.look(presence)
    pc.keyboard(1004)
    assert pc.look(presence, DAY) == ""


def test_a_built_in_keyboard_is_seen(pc: Pc) -> None:
    lines = "           CPU0 CPU1\n  1: {} 7 IO-APIC 1-edge i8042\n 16: {} 0 IO-APIC xhci_hcd\n"
    pc.write("proc/interrupts", lines.format(10, 0))
    presence = presence_of(pc)
    pc.look(presence)
    pc.write("proc/interrupts", lines.format(10, 900))
    assert pc.look(presence) == ""
    pc.write("proc/interrupts", lines.format(12, 900))
    assert pc.look(presence) == "somebody is at the keyboard or mouse"


def test_who_has_the_screen_but_touches_nothing_for_days_is_nobody(pc: Pc) -> None:
    pc.keyboard(1000)
    pc.terminal("tty2", 2 * DAY)
    pc.login(":0", "anna", ":0")
    seat(pc, TTY="tty2", CLASS="user")
    presence = presence_of(pc)
    for _ in range(20):
        assert pc.look(presence, 10) == ""


def test_a_fifo_among_the_sessions_blocks_nobody(pc: Pc) -> None:
    seat(pc)
    os.mkfifo(pc.root / "run/systemd/sessions/2.ref")
    os.mkfifo(pc.root / "run/systemd/sessions/3")
    assert pc.look(presence_of(pc)) == ""


def loginctl(pc: Pc, *sessions: tuple[str, str, float]) -> None:
    """Let loginctl say of sessions whether they call themselves idle, and for how many seconds."""
    said = "\n".join(
        f"Id={name}\nIdleHint={hint}\nIdleSinceHint={int((time.time() - age) * 1e6)}\n"
        for name, hint, age in sessions
    )
    program = pc.write("usr/bin/loginctl", f"#!/bin/sh\ncat <<'END'\n{said}END\n")
    program.chmod(0o755)


def hear(pc: Pc, presence: Presence) -> None:
    """Look until loginctl has been asked once more and has answered."""
    pc.look(presence, 10)
    hints = presence.desk.hints
    before = hints.answers

    def answered() -> bool:
        pc.look(presence, 0.001)
        return hints.answers is not before

    wait_for(answered, "the answer of loginctl")


REMOTE = {"USER": "anna", "REMOTE": 1, "TYPE": "x11", "CLASS": "user"}


def test_a_desktop_that_is_used_from_afar_is_seen_by_its_own_hint(pc: Pc) -> None:
    pc.session("c7", **REMOTE)
    loginctl(pc, ("2", "no", 5), ("c7", "yes", 2 * DAY))
    presence = presence_of(pc)
    hear(pc, presence)
    assert presence.busy == ""
    loginctl(pc, ("c7", "no", 0))
    hear(pc, presence)
    assert presence.busy == "anna has a desktop open"
    loginctl(pc, ("c7", "yes", 100))
    hear(pc, presence)
    assert presence.free_in is not None and presence.free_in <= 300


def test_what_a_desktop_said_before_does_not_become_newer_when_the_clock_is_set(pc: Pc) -> None:
    pc.session("c7", **REMOTE)
    loginctl(pc, ("c7", "yes", DAY))
    presence = presence_of(pc)
    hear(pc, presence)
    assert presence.desk.look(pc.now, time.time() - DAY, False) is None


def test_a_desktop_that_never_calls_itself_idle_is_not_believed(pc: Pc) -> None:
    pc.session("c7", **REMOTE)
    loginctl(pc, ("c7", "no", DAY))
    presence = presence_of(pc)
    hear(pc, presence)
    assert presence.busy == ""


def test_our_own_desktop_from_afar_and_one_whose_keyboard_is_seen_are_not_asked(pc: Pc) -> None:
    pc.session("c7", **{**REMOTE, "UID": STRANGER})
    seat(pc)
    pc.keyboard(1000)
    loginctl(pc, ("c7", "no", 0), ("2", "no", 0))
    presence = presence_of(pc)
    pc.look(presence)
    pc.look(presence)
    assert presence.desk.hints.pid == 0
    assert presence.busy == ""


def test_a_loginctl_that_is_stuck_is_killed_and_asked_again(pc: Pc) -> None:
    pc.session("c7", **REMOTE)
    pc.write("usr/bin/loginctl", "#!/bin/sh\nexec sleep 1000\n").chmod(0o755)
    presence = presence_of(pc)
    pc.look(presence)
    stuck = presence.desk.hints.pid
    assert stuck
    pc.look(presence, 9)
    assert presence.desk.hints.pid == 0
    wait_for(lambda: desk.started(stuck) == "" or reap(stuck), "the end of the program")
    loginctl(pc, ("c7", "no", 0))
    hear(pc, presence)
    assert presence.busy == "anna has a desktop open"


def reap(pid: int) -> bool:
    """Wait for a child as the worker does."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


# -- processors and memory -------------------------------------------------------------------------------


def test_load_is_what_others_use_over_a_few_seconds(pc: Pc) -> None:
    presence = presence_of(pc)
    for _ in range(5):
        pc.uses(user=0.1, system=0.05, nice=2.0)
        assert pc.look(presence) == ""
    seen = []
    for _ in range(4):
        pc.uses(user=0.7, system=0.1, nice=2.0)
        seen.append(pc.look(presence))
    assert seen[0] == ""
    assert seen[-1].startswith("others use 0.")
    assert presence.free_in is None
    for _ in range(303):
        pc.uses(user=0.1)
        pc.look(presence)
    assert presence.busy == ""


def test_one_second_of_work_is_no_load(pc: Pc) -> None:
    presence = presence_of(pc)
    for number in range(30):
        pc.uses(user=1.2 if number % 10 == 5 else 0.0)
        assert pc.look(presence) == ""


def test_what_we_use_is_not_load(pc: Pc) -> None:
    presence = presence_of(pc)
    hertz = os.sysconf("SC_CLK_TCK")
    own = FakeProcess(1, int(pc.now * hertz), False)
    polite = FakeProcess(1, int(pc.now * hertz), True)
    for _ in range(8):
        pc.uses(user=1.0, nice=1.0, system=0.6)
        own.own = [own.own[0] + hertz, own.own[1] + 3 * hertz // 10]
        polite.own = [polite.own[0] + hertz, polite.own[1] + 3 * hertz // 10]
        for pid, process in ((70, own), (71, polite)):
            pc.write(f"proc/{pid}/stat", f"{pid} (a) b) {b' '.join(process.fields()).decode()} 0 0\n")
        assert pc.look(presence, ours=[70, 71, 72]) == ""
    for _ in range(5):
        pc.uses(user=1.0, nice=1.0, system=0.6)
        pc.look(presence, ours=[70, 71, 72])
    assert presence.busy.startswith("others use ")


def test_what_the_kernel_does_by_itself_is_not_load(pc: Pc) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    writer = FakeProcess(2, 50, False)
    pc.write("proc/2/stat", f"2 (kthreadd) {b' '.join(FakeProcess(0, 0, False).fields()).decode()}\n")
    pc.write("proc/2/task/2/children", "40 ")
    presence = presence_of(pc)
    for _ in range(20):
        pc.uses(system=0.9)
        writer.own[1] += 8 * hertz // 10
        pc.write("proc/40/stat", f"40 (kworker/u8:1) {b' '.join(writer.fields()).decode()}\n")
        assert pc.look(presence) == ""
    for second in range(5):
        pc.uses(system=0.9)
        pc.look(presence)
        assert presence.busy or second < 4


def test_a_sleep_does_not_count_as_load(pc: Pc) -> None:
    processors = Processors(str(pc.root), 0.5)
    for now in (0.0, 1.0, 2.0):
        pc.uses(user=0.0)
        processors.look(now, [], False)
    pc.uses(user=500.0)
    assert processors.look(900.0, [], True) is None
    pc.uses(user=0.0)
    assert processors.look(901.0, [], False) is None
    pc.uses(user=0.0)
    assert processors.look(902.0, [], False) == 0.0


def test_pressure_makes_a_small_load_count(pc: Pc) -> None:
    pc.write("proc/pressure/cpu", "some avg10=61.20 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00\n")
    presence = presence_of(pc)
    for _ in range(4):
        pc.uses(user=0.4)
        pc.look(presence)
    assert presence.busy == "others use 0.4 cores and have to wait for them"


def test_too_little_memory_starts_nothing_new(pc: Pc) -> None:
    pc.write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:     317440 kB\n")
    presence = presence_of(pc, min_free_memory=500 << 20)
    pc.look(presence)
    assert presence.full == "only 310 MB of memory are free (at least 500 MB)"
    assert presence.busy == ""
    presence = presence_of(pc, min_free_memory=300 << 20, policy="ignore")
    pc.look(presence)
    assert presence.full == ""
    pc.write("proc/pressure/memory", "some avg10=50.00\nfull avg10=12.30 avg60=0.00\n")
    pc.look(presence)
    assert presence.full == "memory is short: everything waits for it 12 % of the time"


def test_with_ignore_nobody_is_looked_for(pc: Pc) -> None:
    pc.terminal("tty2", 0)
    pc.login("tty2", "anna")
    presence = presence_of(pc, policy="ignore")
    for _ in range(6):
        pc.uses(user=2.0)
        assert pc.look(presence) == ""
    assert presence.free_in is None


@pytest.mark.parametrize(
    "path",
    [
        "proc/stat",
        "proc/meminfo",
        "proc/pressure/cpu",
        "proc/pressure/memory",
        "proc/70/stat",
        "proc/2/stat",
        "proc/interrupts",
        "run/utmp",
        "run/systemd/sessions/2",
    ],
)
@pytest.mark.parametrize(
    "text", ["", "\n", "cpu", "cpu a b c", "some avg10=", "full avg10=x", "1: i8042", "="]
)
def test_nonsense_in_a_file_raises_nothing(pc: Pc, path: str, text: str) -> None:
    pc.write(path, text)
    presence = presence_of(pc, min_free_memory=1)
    for _ in range(4):
        assert pc.look(presence, ours=[70]) == ""
    assert presence.full == ""
