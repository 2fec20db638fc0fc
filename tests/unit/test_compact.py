"""What is kept of a million jobs in few bytes says the same as a dict of objects would."""

from __future__ import annotations

import json
import pickle
import shlex
import sys
from array import array
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pisa_fab import records as records_module
from pisa_fab.assignments import command_line
from pisa_fab.endings import JobResult, JobResults
from pisa_fab.events import Ending, JobRecord, Outcome
from pisa_fab.keys import Keys, Numbers
from pisa_fab.numbering import assign_numbers
from pisa_fab.records import Arguments, PackedRecords, Records

CALM = settings(deadline=None)  # a busy machine is no failure
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too: undecodable bytes
KEY = st.integers(0, 2**64 - 1).map("{:016x}".format)
ODD_KEY = KEY | st.sampled_from(["x", "", "00F1E2D3C4B5A697", "00f1e2d3c4b5a69 ", "0123456789abcdeg"])
ONE, OTHER = (JobRecord("0" * 16, (), arguments) for arguments in ({"-n": None}, {}))

# -- keys ---------------------------------------------------------------------------------------------------


@CALM
@given(st.lists(KEY))
def test_keys_are_the_texts_that_they_were_made_of(texts: list[str]) -> None:
    keys = Keys.of(texts)
    assert keys is not None
    assert (keys, list(keys), len(keys)) == (texts, texts, len(texts))
    assert [keys[i] for i in range(len(keys))] == texts
    assert keys[1:3] == texts[1:3]
    assert keys.codes.tolist() == [int(text, 16) for text in texts]
    assert keys != [*texts, "0" * 16]
    assert keys != 1


@CALM
@given(st.lists(ODD_KEY))
def test_what_is_no_key_of_ours_is_not_taken_for_one(texts: list[str]) -> None:
    ours = all(len(text) == 16 and set(text) <= set("0123456789abcdef") for text in texts)
    assert (Keys.of(texts) is not None) == ours


@st.composite
def pieces(draw: st.DrawFn) -> list[tuple[int, list[str]]]:
    """Give pieces of keys, no key twice, with gaps now and then."""
    keys = draw(st.lists(ODD_KEY, unique=True, max_size=12))
    found: list[tuple[int, list[str]]] = []
    number = 0
    while keys:
        size = draw(st.integers(1, 4))
        number += draw(st.sampled_from([0, 0, 0, 2]))
        found.append((number, keys[:size]))
        number += len(keys[:size])
        keys = keys[size:]
    return found


def known_of(found: list[tuple[int, list[str]]]) -> dict[str, int]:
    return {key: first + i for first, keys in found for i, key in enumerate(keys)}


@CALM
@given(pieces(), st.lists(KEY, max_size=4), st.data())
def test_numbers_are_given_as_by_a_dict(
    found: list[tuple[int, list[str]]], new: list[str], data: st.DataObject
) -> None:
    known = known_of(found)
    numbers = Numbers((first, Keys.of(keys) or keys) for first, keys in found)
    assert dict(numbers) == known
    assert (bool(numbers), len(numbers)) == (bool(known), len(known))
    assert all((key in numbers) == (key in known) for key in new)
    ours = [key for key in known if Keys.of([key]) is not None]
    chosen = ours[: data.draw(st.integers(0, len(ours)))]  # the first of them in order, as mostly,
    if data.draw(st.booleans()):
        chosen = data.draw(st.permutations(chosen))  # or in any
    wanted = Keys.of(list(dict.fromkeys([*chosen, *new])))
    assert wanted is not None
    next_number = max(known.values(), default=-1) + 1
    given_out = assign_numbers(wanted, numbers, next_number)
    assert list(given_out) == list(assign_numbers(list(wanted), known, next_number))


def test_a_batch_that_is_submitted_again_looks_nothing_up() -> None:
    keys = Keys(array("Q", range(1000, 6000)))
    numbers = Numbers([(0, keys[:1000]), (1000, keys[1000:4000])])
    assert assign_numbers(keys[:3000], numbers, 4000) == range(3000)
    assert assign_numbers(keys, numbers, 4000) == range(5000)  # it has grown at its end
    assert "_by_code" not in vars(numbers)
    other = assign_numbers(keys[1:], numbers, 4000)
    assert (other[0], other[-1], "_by_code" in vars(numbers)) == (1, 4999, True)


# -- records ------------------------------------------------------------------------------------------------

COLUMNS = st.lists(TEXT, max_size=3, unique=True)


@st.composite
def some_records(draw: st.DrawFn) -> list[JobRecord]:
    columns = draw(COLUMNS)
    same = st.fixed_dictionaries({name: st.none() | TEXT for name in columns})
    arguments = st.one_of(same, st.dictionaries(TEXT, st.none() | TEXT, max_size=3))
    record = st.builds(JobRecord, ODD_KEY, st.lists(TEXT, max_size=3).map(tuple), arguments)
    return draw(st.lists(record, max_size=5))


@CALM
@given(some_records())
def test_records_come_out_as_they_were_packed(records: list[JobRecord]) -> None:
    packed = PackedRecords.of(records)
    assert (packed, list(packed), len(packed)) == (records, records, len(records))
    assert [packed[i] for i in range(len(packed))] == records
    assert (packed[1:], list(packed.keys)) == (records[1:], [record.key for record in records])
    assert PackedRecords.of(packed) is packed
    columns, jobs = packed.raw()
    assert PackedRecords.read(columns, jobs) == packed
    assert packed != [*records, JobRecord("x", (), {})]
    for record, again in zip(records, packed, strict=True):
        assert list(record.arguments) == list(again.arguments)  # in their order


@pytest.mark.parametrize(
    "text",
    [
        '{"columns": ["n"], "jobs": [["k", ["a"], ["1", "2"]]]}',
        '{"columns": ["n"], "jobs": [["k", ["a"]]]}',
        '{"columns": ["n"], "jobs": [["k", [1], ["1"]]]}',
        '{"columns": ["n"], "jobs": [[1, ["a"], ["1"]]]}',
        '{"columns": [1], "jobs": []}',
        '{"columns": ["n"], "jobs": [["k", ["a"], null]]}',
        '{"columns": ["n"], "jobs": [["k", null, ["1"]]]}',
        '{"columns": null, "jobs": []}',
        '{"columns": [], "jobs": 5}',
    ],
)
def test_what_a_line_cannot_say_of_jobs_is_noticed_at_once(text: str) -> None:
    said = json.loads(text)
    with pytest.raises((ValueError, TypeError)):
        PackedRecords.read(said["columns"], said["jobs"], text)


@CALM
@given(st.lists(st.tuples(st.integers(0, 20), some_records()), max_size=6), st.booleans())
@example([(0, [ONE]), (0, [ONE] * 5), (1, [OTHER])], False)
def test_records_are_a_dict(added: list[tuple[int, list[JobRecord]]], in_order: bool) -> None:
    records, model = Records(), {}
    for first, new in added:
        first = max(model, default=-1) + 1 + (first % 3 == 2) if in_order else first
        records.add(first, new)
        model.update(enumerate(new, start=first))
    assert (dict(records), len(records), sorted(records)) == (model, len(model), sorted(model))
    assert [number in records for number in range(-1, 40)] == [number in model for number in range(-1, 40)]
    assert [records.get(number) for number in range(-1, 40)] == [model.get(n) for n in range(-1, 40)]
    keys = [record.key for record in model.values()]
    if len(set(keys)) == len(keys):
        assert dict(records.numbers()) == {record.key: number for number, record in model.items()}
    assert dict(pickle.loads(pickle.dumps(records))) == model
    for number in model:
        assert Arguments(records, number) == model[number].arguments
        assert list(Arguments(records, number)) == list(model[number].arguments)


def test_neighbours_are_decoded_together_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[PackedRecords] = []
    raw = PackedRecords.raw

    def noted(packed: PackedRecords) -> tuple[list[str], records_module.Raw]:
        decoded.append(packed)
        return raw(packed)

    monkeypatch.setattr(PackedRecords, "raw", noted)
    records = Records()
    for first in range(0, 5000, 100):
        records.add(first, [JobRecord(f"{n:016x}", ("a",), {}) for n in range(first, first + 100)])
    assert [records[number].key for number in range(5000)] == [f"{n:016x}" for n in range(5000)]
    assert len(decoded) == 50
    assert len(records._at_hand) == records_module.KEPT
    assert list(records) == list(range(5000))
    assert dict(records.numbers())[f"{7:016x}"] == 7
    assert len(decoded) == 50  # neither numbers nor keys are in there


# -- results ------------------------------------------------------------------------------------------------

SECONDS = st.floats(0, 1e9) | st.integers(0, 100)
PLAIN = st.builds(
    Outcome,
    ending=st.just(Ending.EXITED),
    exit_code=st.just(0),
    seconds=st.floats(0, 1e9),
    user=st.floats(0, 1e9),
    system=st.floats(0, 1e9),
    memory=st.integers(0, 2**70),
)
ANY = st.builds(
    Outcome,
    ending=st.sampled_from(Ending),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    seconds=SECONDS,
    user=SECONDS,
    system=SECONDS,
    memory=st.integers(-5, 2**70) | st.floats(0, 10),
    tail=TEXT,
    paused=SECONDS,
    limit=st.integers(0, 10),
)
JOB = st.integers(0, 30)
PUT = st.tuples(JOB, st.integers(1, 2**40), TEXT, SECONDS, PLAIN | ANY)


@CALM
@given(st.lists(PUT | JOB, max_size=20))
def test_results_are_a_dict(steps: list[tuple[int, int, str, float, Outcome] | int]) -> None:
    results, model = JobResults(), {}
    for step in steps:
        if isinstance(step, int):
            results.discard(step)
            model.pop(step, None)
        else:
            results.put(*step)
            job, attempt, host, started, outcome = step
            model[job] = JobResult(job, attempt, host, started, outcome)
    assert (dict(results), len(results), list(results)) == (model, len(model), sorted(model))
    assert [job in results for job in range(-1, 35)] == [job in model for job in range(-1, 35)]
    assert [results.get(job) for job in range(-1, 35)] == [model.get(job) for job in range(-1, 35)]
    others = set(results.others())
    assert {job for job, result in model.items() if not result.outcome.succeeded} <= others <= set(model)
    assert dict(pickle.loads(pickle.dumps(results))) == model


def test_times_of_a_success_stay_numbers_of_the_same_kind() -> None:
    outcome = Outcome(Ending.EXITED, 0, None, 5, 1.5, 0.5, 7)
    results = JobResults()
    results.put(0, 1, "a", 1.0, outcome)
    assert repr(results[0].outcome) == repr(outcome)
    results.put(0, 1, "a", 1.0, replace(outcome, seconds=5.0))
    assert repr(results[0].outcome) == repr(replace(outcome, seconds=5.0))
    assert results.others() == []


def test_a_success_takes_few_bytes() -> None:
    results = JobResults()
    for job in range(10_000):
        results.put(
            job, 1, f"pc{job % 50:02d}", 1763797062.5, Outcome(Ending.EXITED, 0, None, 1.5, 1.25, 0.5, 9)
        )
    size = sum(sys.getsizeof(part) for part in vars(results).values())
    assert size / 10_000 < 62


# -- commands -----------------------------------------------------------------------------------------------

WORDS = st.lists(st.text(max_size=5) | st.sampled_from(["-n", "3", "a b", "", "'", "ä", "x=1", "a\nb"]))


@CALM
@given(WORDS)
def test_a_command_line_is_that_of_shlex(argv: list[str]) -> None:
    assert command_line(tuple(argv)) == shlex.join(argv)
