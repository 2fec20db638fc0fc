"""What a cluster file says of time and of other people, as it is read."""

from __future__ import annotations

import shutil
import struct
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisa_fab.calendar import EVERY_DAY, Window, describe
from pisa_fab.errors import SpecError
from pisa_fab.model import AtEdge, Cluster, Host, Owner, OwnerPolicy
from pisa_fab.specs import load_cluster
from pisa_fab.specs.fields import duration_or_zero, size
from pisa_fab.specs.problems import FieldError
from pisa_fab.specs.windows import local_zone, zone_named

CALM = settings(deadline=None)  # a busy machine is no failure
PAUSE = Owner(OwnerPolicy.PAUSE)


def cluster(folder: Path, text: str) -> Cluster:
    (folder / "cluster.yaml").write_text(text)
    return load_cluster(folder / "cluster.yaml")


def windows(folder: Path, text: str) -> tuple[Window, ...]:
    """Give the windows of a file whose list of them is this, in flow style."""
    (host,) = cluster(folder, f"hosts: [pc]\nwindows: [{text}]\n").hosts
    return host.windows


# --- windows ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{slots: 0}", [Window(slots=0)]),
        ("{nice: 5}", [Window(nice=5)]),
        ('{hours: "22:00-06:30", slots: 12, nice: 5}', [Window(1320, 390, slots=12, nice=5)]),
        ("{hours: 22:00-06:30, slots: 1}", [Window(1320, 390, slots=1)]),
        ("{hours: 6:00 - 7:05, slots: 1}", [Window(360, 425, slots=1)]),
        ("{hours: 18:00-24:00, slots: 1}", [Window(1080, 1440, slots=1)]),
        ("{hours: 18:00-00:00, slots: 1}", [Window(1080, 1440, slots=1)]),
        ("{hours: 00:00-24:00, slots: 1}", [Window(slots=1)]),
        (
            "{hours: [12:00-13:00, 22:00-06:30], slots: 1}",
            [Window(720, 780, slots=1), Window(1320, 390, slots=1)],
        ),
        (
            '{hours: "12:00-13:00, 22:00-06:30", slots: 1}',
            [Window(720, 780, slots=1), Window(1320, 390, slots=1)],
        ),
        ("{days: mon-fri, slots: 1}", [Window(weekdays=frozenset(range(5)), slots=1)]),
        ("{days: [sat, sun], slots: 1}", [Window(weekdays=frozenset({5, 6}), slots=1)]),
        ('{days: "mon-thu, sun", slots: 1}', [Window(weekdays=frozenset({0, 1, 2, 3, 6}), slots=1)]),
        ("{days: [Fri - Mon, WEDNESDAY], slots: 1}", [Window(weekdays=frozenset({4, 5, 6, 0, 2}), slots=1)]),
        ("{days: sunday, slots: 1}", [Window(weekdays=frozenset({6}), slots=1)]),
        ("{dates: 2026-12-24, slots: 1}", [Window(dates=((date(2026, 12, 24),) * 2,), slots=1)]),
        (
            "{dates: 2026-12-24..2027-01-06, slots: 1}",
            [Window(dates=((date(2026, 12, 24), date(2027, 1, 6)),), slots=1)],
        ),
        (
            "{dates: [2026-05-01, 2026-12-24 .. 2027-01-06], slots: 1}",
            [Window(dates=((date(2026, 5, 1),) * 2, (date(2026, 12, 24), date(2027, 1, 6))), slots=1)],
        ),
        ("{slots: 1}, {nice: 3}", [Window(slots=1), Window(nice=3)]),
    ],
)
def test_windows_are_read(tmp_path: Path, text: str, expected: list[Window]) -> None:
    assert list(windows(tmp_path, text)) == expected


MINUTES = st.integers(0, 1439)


@CALM
@given(MINUTES, MINUTES, st.frozensets(st.integers(0, 6), min_size=1), st.dates(), st.integers(0, 60))
def test_what_is_described_is_read_as_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    begin: int,
    end: int,
    weekdays: frozenset[int],
    first: date,
    days: int,
) -> None:
    last = min(first, date.max - timedelta(days=days)) + timedelta(days=days)
    first = min(first, last)
    whole = begin == end
    window = Window(*((0, 1440) if whole else (begin, end or 1440)), weekdays, ((first, last),), slots=1)
    *named, hours = [*describe(window).split(), ""][: None if whole else -1]
    listed = ", ".join(part for part in named if part[0].isalpha()).replace(",,", ",")
    dated = next(part for part in named if part[0].isdigit())
    text = [f"dates: {dated}", "slots: 1"]
    if weekdays != EVERY_DAY:
        text.append(f'days: "{listed}"')
    if not whole:
        text.append(f"hours: {hours}")
    folder = tmp_path_factory.getbasetemp()
    assert windows(folder, f"{{{', '.join(text)}}}") == (window,)


def test_hosts_have_windows_for_all_or_their_own(tmp_path: Path) -> None:
    loaded = cluster(
        tmp_path,
        """
timezone: Europe/Berlin
slots: 3
nice: 19
hosts:
  - pc[01-05]
  - {host: pc02, slots: 1}
  - {host: pc03, windows: []}
  - {host: pc04, slots: 0, windows: [{days: [sat, sun], slots: 4}]}
  - {host: pc05, at_edge: finish}
windows:
  - {hours: "22:00-06:30", slots: 12}
at_edge: requeue
""",
    )
    night, weekend = Window(1320, 390, slots=12), Window(weekdays=frozenset({5, 6}), slots=4)
    found = [(host.slots, host.windows, host.at_edge) for host in loaded.hosts]
    assert found == [
        (3, (night,), AtEdge.REQUEUE),
        (1, (night,), AtEdge.REQUEUE),
        (3, (), AtEdge.REQUEUE),
        (0, (weekend,), AtEdge.REQUEUE),
        (3, (night,), AtEdge.FINISH),
    ]
    midnight = datetime(2026, 11, 28, 0, 0, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()  # a Saturday
    assert [host.calendar.at(midnight).slots for host in loaded.hosts] == [12, 12, 3, 4, 12]
    assert [host.calendar.at(midnight - 3 * 3600).slots for host in loaded.hosts] == [3, 1, 3, 0, 3]
    assert {host.calendar.nice for host in loaded.hosts} == {19}


def test_a_file_read_again_gives_the_same(tmp_path: Path) -> None:
    text = 'hosts: [a]\nwindows: [{hours: "22:00-06:30", slots: 12}]\n'
    assert cluster(tmp_path, text) == cluster(tmp_path, text)


# --- the rest ---


def test_what_a_cluster_file_says_without_saying_it(tmp_path: Path) -> None:
    loaded = cluster(tmp_path, "hosts: [a]\n")
    (host,) = loaded.hosts
    assert host == Host("a", zone=local_zone(), owner=PAUSE, min_free_memory=500 << 20)
    assert (host.windows, host.at_edge) == ((), AtEdge.PAUSE)
    assert (loaded.min_free_space, loaded.contact) == (100 << 20, "")
    assert Owner(OwnerPolicy.PAUSE, idle=900, quiet=300, give_back=600, load=0.5) == PAUSE


def test_hosts_made_in_code_stand_back_for_nobody() -> None:
    host = Host("a")
    assert (host.owner.policy, host.min_free_memory) == (OwnerPolicy.IGNORE, 0)
    assert Cluster((host,)).min_free_space == 0


def test_the_cluster_file_of_pisa_has_the_same_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"all": {"num_tasks": 3}, "devices": ["a"]}')
    loaded = load_cluster(path)
    assert loaded.hosts == (Host("a", 3, owner=PAUSE, min_free_memory=500 << 20),)
    assert loaded.min_free_space == 100 << 20
    path.write_text('{"all": {"num_tasks": 3, "owner": "ignore"}, "devices": ["a"]}')
    assert load_cluster(path).hosts[0].owner.policy is OwnerPolicy.IGNORE
    path.write_text('{"all": {"num_tasks": 3, "owner": "me"}, "devices": ["a"]}')
    with pytest.raises(SpecError, match='"owner" must be pause, requeue or ignore, not "me"'):
        load_cluster(path)


@pytest.mark.parametrize("policy", list(OwnerPolicy))
def test_an_owner_s_policy_is_a_word_or_stands_in_a_mapping(tmp_path: Path, policy: OwnerPolicy) -> None:
    for written in (policy.value, f"{{policy: {policy.value}}}"):
        (host,) = cluster(tmp_path, f"hosts: [a]\nowner: {written}\n").hosts
        assert host.owner == Owner(policy)


def test_times_of_an_owner_are_refined_one_by_one(tmp_path: Path) -> None:
    loaded = cluster(
        tmp_path,
        """
owner: {idle: 0, quiet: 1m, load: 1.5}
hosts:
  - pc[01-03]
  - {host: pc02, owner: requeue}
  - {host: pc02, owner: {give_back: 0}}
  - {host: pc03, owner: {policy: ignore, load: 3}}
""",
    )
    assert [host.owner for host in loaded.hosts] == [
        Owner(OwnerPolicy.PAUSE, 0, 60, 600, 1.5),
        Owner(OwnerPolicy.REQUEUE, 0, 60, 0, 1.5),
        Owner(OwnerPolicy.IGNORE, 0, 60, 600, 3),
    ]


def test_floors_and_the_contact(tmp_path: Path) -> None:
    text = "min_free_memory: 2G\nmin_free_space: 0\ncontact: Ada, room 1.23\n"
    loaded = cluster(tmp_path, f"hosts: [a, {{host: b, min_free_memory: 1.5G}}]\n{text}")
    assert [host.min_free_memory for host in loaded.hosts] == [2 << 30, 3 << 29]
    assert (loaded.min_free_space, loaded.contact) == (0, "Ada, room 1.23")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000", 1000),
        ("500M", 500 << 20),
        ("2G", 2 << 30),
        ("1.5G", 3 << 29),
        ("0.1K", 102),
        ("3 k", 3 << 10),
        ("2GB", 2 << 30),
        ("2 GiB", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "2g", "500m", "1e3", "2 X", "1.G", "0x10", "\u0661", None, ["2G"]]
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(FieldError, match="must be a size"):
        size(text)


def test_durations_that_may_be_nothing() -> None:
    assert [duration_or_zero(text) for text in ("0", "0m", "90", "1.5h")] == [0, 0, 90, 5400]
    with pytest.raises(FieldError, match="must be a duration"):
        duration_or_zero("-1")


# --- time zones ---


def tzif(hours: int) -> bytes:
    """Make the file of a zone that is always so many hours ahead of UTC (RFC 8536)."""
    header = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4)
    body = struct.pack(">lbb4s", hours * 3600, 0, 0, b"XYZ\0")
    return (header + body) * 2 + f"\nXYZ{-hours}\n".encode()


def offset(zone: object) -> float:
    assert hasattr(zone, "utcoffset")
    return float(zone.utcoffset(datetime(2026, 7, 1)).total_seconds()) / 3600


def test_the_zone_is_that_of_the_file_or_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert cluster(tmp_path, "hosts: [a]\n").hosts[0].zone is ZoneInfo("America/New_York")
    loaded = cluster(tmp_path, "hosts: [a]\ntimezone: Australia/Lord_Howe\n")
    assert loaded.hosts[0].zone is ZoneInfo("Australia/Lord_Howe")


def test_tz_comes_before_the_machine(tmp_path: Path) -> None:
    (tmp_path / "zone").write_bytes(tzif(5))
    nowhere = tmp_path / "nothing"
    for written in ("Europe/Berlin", ":Europe/Berlin"):
        assert local_zone({"TZ": written}, nowhere) is ZoneInfo("Europe/Berlin")
    assert local_zone({"TZ": ""}, tmp_path / "zone") is UTC
    assert offset(local_zone({"TZ": str(tmp_path / "zone")}, nowhere)) == 5
    assert offset(local_zone({"TZ": f":{tmp_path}/zone"}, nowhere)) == 5
    with pytest.raises(FieldError, match='is no time zone that is known here: "CET-1CEST"'):
        local_zone({"TZ": "CET-1CEST"}, tmp_path / "zone")


def test_the_zone_of_the_machine_is_a_link_or_a_file(tmp_path: Path) -> None:
    localtime = tmp_path / "localtime"
    assert local_zone({}, localtime) is UTC
    for target in ("/usr/share/zoneinfo/Europe/Berlin", "../x/zoneinfo/posix/Europe/Berlin"):
        localtime.symlink_to(target)
        assert local_zone({}, localtime) is ZoneInfo("Europe/Berlin")
        localtime.unlink()
    localtime.write_bytes(tzif(-7))
    zone = local_zone({}, localtime)
    assert offset(zone) == -7
    shutil.copy(localtime, tmp_path / "copy")
    assert local_zone({}, tmp_path / "copy") is zone  # or every host would seem to have changed
    localtime.write_bytes(tzif(8))
    assert offset(local_zone({}, localtime)) == 8
    (tmp_path / "zoneinfo").mkdir()
    localtime.rename(tmp_path / "zoneinfo" / "Ours")
    localtime.symlink_to("zoneinfo/Ours")  # a name that nobody else knows
    assert offset(local_zone({}, localtime)) == 8


def test_a_broken_file_of_a_zone_is_utc(tmp_path: Path) -> None:
    whole = tzif(1)
    for content in (b"hello", *(whole[:length] for length in range(len(whole)))):
        (tmp_path / "localtime").write_bytes(content)
        assert local_zone({}, tmp_path / "localtime") is UTC, content


def test_utc_needs_no_data() -> None:
    assert zone_named("UTC") is zone_named("utc") is UTC


@pytest.mark.parametrize(
    ("name", "tip"),
    [
        ("Europe/Berlni", '"Europe/Berlin"'),
        ("Berlin", '"Europe/Berlin"'),
        ("europe/berlin", '"Europe/Berlin"'),
        ("New York", '"America/New_York"'),
        ("Europe/Heidelberg?!", "write one such as Europe/Berlin"),
        ("qqqqqqq", "write one such as Europe/Berlin"),
        ("../../etc/passwd", ""),
        ("/etc/localtime", ""),
        ("Europe", ""),
        ("", ""),
        ("a\0b", ""),
        ("x" * 5000, ""),
    ],
)
def test_an_unknown_zone_is_said_with_the_nearest_names(name: str, tip: str) -> None:
    with pytest.raises(FieldError, match="is no time zone that is known here") as caught:
        zone_named(name)
    assert tip in caught.value.hint


def test_without_any_zones_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pisa_fab.specs.windows.available_timezones", set)
    with pytest.raises(SpecError, match="is no time zone that is known here") as caught:
        cluster(tmp_path, "hosts: [a]\ntimezone: Europe/Amsterdaam\n")
    assert "pip install tzdata" in caught.value.hint


def test_a_tz_that_nobody_can_read_matters_only_to_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Nowhere/At_All")
    assert cluster(tmp_path, "hosts: [a]\n").hosts[0].zone is UTC
    with pytest.raises(SpecError, match="TZ of this machine is no time zone") as caught:
        cluster(tmp_path, "hosts: [a, {host: b, windows: [{slots: 2}]}]\n")
    assert (caught.value.position.line, caught.value.position.column) == (1, 31)
    assert caught.value.hint == "write timezone: Europe/Berlin"
