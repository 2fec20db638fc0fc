"""Every mistake in a file ends in one line with its place, a tip, and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisa_fab.errors import EXIT_INVALID, SpecError
from pisa_fab.specs import load_batch, load_cluster


class Bad(NamedTuple):
    """A file, the place of the mistake (line:column, or nothing), words of the message and of the tip."""

    name: str
    text: str | bytes
    place: str
    problem: str
    tip: str = ""


def jobs(body: str, place: str, problem: str, tip: str = "") -> Bad:
    """Make a jobs file whose first two lines are good: `body` begins in line 3."""
    return Bad("jobs.yaml", f"script: fib.py\noutput: run\n{body}\n", place, problem, tip)


def whole(text: str | bytes, place: str, problem: str, tip: str = "") -> Bad:
    return Bad("jobs.yaml", text, place, problem, tip)


def cluster(text: str | bytes, place: str, problem: str, tip: str = "") -> Bad:
    return Bad("cluster.yaml", text, place, problem, tip)


def devices(text: str, place: str, problem: str, tip: str = "") -> Bad:
    return Bad("cluster.json", text, place, problem, tip)


TASK = """woking_directory = "."
environment = "venv"
output = "run"
assign = "assignments.csv"
executable = "python fib.py"
"""


def task(body: str, place: str, problem: str, tip: str = "") -> Bad:
    """Make a task file of PISA whose first five lines are good: `body` begins in line 6."""
    return Bad("task.toml", TASK + body + "\n", place, problem, tip)


UNREADABLE = [
    whole("", "1:1", "the file is empty"),
    whole("# nothing\n", "1:1", "the file is empty"),
    whole("- a\n- b\n", "1:1", "must be a mapping of keys", "write output: my_run"),
    whole("hello\n", "1:1", "must be a mapping of keys"),
    whole(b"output: r\xfcn\n", "1:10", "is not UTF-8", "encoding UTF-8"),
    jobs("args: [a, b", "3:7", "not valid YAML"),
    jobs("args: 'a", "3:7", "not valid YAML", "not closed"),
    jobs("sweep:\n\t-n: [1]", "4:1", "not valid YAML", "indent with blanks, not with tabs"),
    jobs("args: @home", "3:7", "not valid YAML", "put the text in quotes"),
    jobs("args: a: b", "3:8", "not valid YAML: mapping values are not allowed", "needs quotes"),
    jobs("args: [*data]", "3:8", "nothing before this is marked &data", "begins with * needs quotes"),
    jobs("sweep: {-f: {glob: *.csv}}", "3:21", "not valid YAML", "begins with * needs quotes"),
    jobs('args: "C:\\dir"', "3:7", "not valid YAML", "backslash"),
    jobs("args: a\x07b", "3:8", "a control character", "escape"),
    jobs("---\nscript: b.py", "3:1", "a second document begins here", "one file holds one document"),
    jobs("args: !!int 3", "3:7", "the tag tag:yaml.org,2002:int is not supported"),
    jobs("base: &b {a: b}\nenv:\n  <<: *b", "5:3", "merge keys (<<) are not supported"),
    jobs("? [a, b]\n: c", "3:3", "a key must be a text"),
    jobs("args: " + "[" * 100 + "]" * 100, "3:57", "nested too deeply"),
    jobs("retries: 1\nretries: 2", "4:1", '"retries" is there twice', "the first is in line 3"),
    jobs("sweep:\n  -n:\n  -m: [1]", "4:3", '"-n" has no value', 'write "" for an empty text'),
    jobs("args:\n  - a\n  -", "5:4", "item 2 of the list has no value", 'write ""'),
    jobs("sweep: {n: [1]}\nargs: [{n}]", "4:9", '"n" has no value', '"{n}" as a text needs quotes'),
]

KEYS = [
    jobs("ouput: x", "3:1", 'unknown key "ouput"', 'did you mean "output"?'),
    jobs("walltime: 2h", "3:1", 'unknown key "walltime"', "known are output, script"),
    whole("script: fib.py\n", "1:1", '"output" is missing'),
    whole("script: fib.py\nouput: run\n", "2:1", 'unknown key "ouput"', 'did you mean "output"?'),
    whole("output: run\n", "1:1", "neither script nor command", "write script:"),
    jobs("command: [ls]", "3:1", "script and command cannot both be given", "remove one"),
    whole("output: run\ncommand: []\n", "2:10", '"command" is empty'),
    whole("output: ''\nscript: fib.py\n", "1:9", '"output" is empty'),
    whole("output: run\ncommand: ['', x]\n", "2:10", '"command" begins with an empty text', ""),
    jobs("notify: [' ']", "3:9", '"notify" begins with an empty text'),
    jobs("timeout: soon", "3:10", '"timeout" must be a duration, not "soon"', "15m"),
    jobs("timeout: 0", "3:10", '"timeout" must be more than 0'),
    jobs(
        "speculate: often", "3:12", '"speculate" must be true, false or a number above 1, not "often"', "3 is"
    ),
    jobs("speculate: 1", "3:12", '"speculate" must be true, false or a number above 1, not "1"'),
    jobs("speculate: [2]", "3:12", '"speculate" must be true, false or a number above 1, not a list'),
    jobs("expect: soon", "3:9", '"expect" must be a duration, not "soon"', "15m"),
    jobs("expect: 0", "3:9", '"expect" must be more than 0'),
    jobs("expect: [90]", "3:9", '"expect" must be a text, not a list'),
    jobs(
        "deadline: soon", "3:11", '"deadline" must be a date and a time, or a time, not', "2026-12-01 07:00"
    ),
    jobs("deadline: 2026-12-01", "3:11", '"deadline" must be a date and a time', "the next time"),
    jobs("deadline: [7, 30]", "3:11", '"deadline" must be a date and a time, or a time, not a list'),
    jobs("deadline: 2027-02-29 07:00", "3:11", '"deadline" has a day that no calendar has: 2027-02-29'),
    jobs("deadline: 0000-01-01 07:00", "3:11", '"deadline" has a day that no calendar has'),
    jobs("deadline: 9999-12-31 07:00", "3:11", '"deadline" has the year 9999, which cannot be meant'),
    jobs("deadline: 24:00", "3:11", '"deadline" has a time that no clock shows: 24:00', "23:59"),
    jobs("retries: -1", "3:10", '"retries" must be at least 0, not "-1"'),
    jobs("retries: many", "3:10", '"retries" must be a whole number, not "many"'),
    jobs("retries: 1.5", "3:10", '"retries" must be a whole number'),
    jobs("retries: [1]", "3:10", '"retries" must be a whole number, not a list'),
    jobs("max_losses: 0", "3:13", '"max_losses" must be at least 1'),
    jobs("memory: 2", "3:9", '"memory" is 2 bytes, in which no program runs', "write 500M, 2G or 1.5G"),
    jobs("memory: much", "3:9", '"memory" must be a size, not', "write 500M, 2G or 1.5G"),
    jobs("memory: -2G", "3:9", '"memory" must be a size, not', "write 500M, 2G or 1.5G"),
    jobs("threads: 0", "3:10", '"threads" must be at least 1'),
    jobs("nice: 20", "3:7", '"nice" must be at most 19, not "20"'),
    jobs("workdir: {a: b}", "3:10", '"workdir" must be a text, not a mapping'),
    jobs("args: {a: b}", "3:7", '"args" must be a list, not a mapping'),
    jobs("args: [a, [b]]", "3:11", 'item 2 of "args" must be a text, not a list'),
    jobs('args: --name "x', "3:7", '"args" has a quote that is not closed'),
    jobs('args: ["a\\0b"]', "3:8", 'item 1 of "args" has a NUL character'),
    jobs(f"args: [{'x' * 131072}]", "3:8", "has 131072 bytes", "write it to a file"),
    jobs("env: [A]", "3:6", '"env" must be a mapping, not a list'),
    jobs("env: {A=B: c}", "3:7", '"A=B" cannot be the name of an environment variable'),
    jobs("env: {'': c}", "3:7", '"" cannot be the name of an environment variable'),
    jobs("env: {A: [b]}", "3:10", '"A" must be a text'),
    jobs("results: xml", "3:10", '"results" must be json, csv or {regex: ...}, not "xml"'),
    jobs("results: {regex: '('}", "3:10", '"results" has a regex that is not valid'),
    jobs("results: {regex: 'x=(.*)'}", "3:10", "a regex without a named group", "(?P<name>...)"),
    jobs("results: regex", "3:10", '"results" must be json', "write {regex:"),
    jobs("notify: []", "3:9", '"notify" is empty'),
    jobs("notify: ''", "3:9", '"notify" is empty'),
    jobs("notify: {mail: me}", "3:9", '"notify" must be a list, not a mapping'),
    jobs("notify: [mail, [me]]", "3:16", 'item 2 of "notify" must be a text, not a list'),
    jobs("notify: mail 'me", "3:9", '"notify" has a quote that is not closed'),
    jobs("retries: many\nnice: 99\nouput: x", "3:10", '"retries" must be a whole number'),
]

PATHS = [
    jobs("workdir: nowhere", "3:10", 'there is no folder "nowhere"', "looked for"),
    jobs("venv: nowhere", "3:7", 'there is no folder "nowhere"'),
    jobs("venv: data", "3:7", '"data" is not a virtual environment: it has no bin/python', "python3 -m venv"),
    whole("output: run\nscript: fob.py\n", "2:9", 'there is no file "fob.py"', "looked for"),
    whole("output: run\ncommand: [./sim, -x]\n", "2:11", 'there is no file "./sim"'),
    whole("output: run\ncommand: ./notes.txt -x\n", "2:10", '"./notes.txt" is not executable', "chmod +x"),
    whole("output: run\nscript: -x.py\n", "2:9", "taken for an option of python", "write ./-x.py"),
    whole("script: fib.py\noutput: .\n", "2:9", "is workdir or a folder around it", "a folder of its own"),
    whole("script: fib.py\noutput: data/../..\n", "2:9", "is workdir or a folder around it"),
    whole("script: fib.py\noutput: notes.txt\n", "2:9", "is a file, not a folder"),
    jobs("cluster: pool.yaml", "3:10", 'there is no file "pool.yaml"'),
]

SWEEPS = [
    jobs("sweep: {}", "3:8", '"sweep" is empty', "leave it out"),
    jobs("sweep: []", "3:8", '"sweep" is empty'),
    jobs("sweep: 3", "3:8", '"sweep" must be a mapping or a list of mappings'),
    jobs("sweep: [-n]", "3:9", 'item 1 of "sweep" must be a mapping'),
    jobs("sweep: [{}]", "3:9", 'item 1 of "sweep" is empty'),
    jobs("sweep: {-n: []}", "3:13", '"-n" has no values'),
    jobs("sweep: {-n: {}}", "3:13", '"-n" has no values'),
    jobs("sweep: {-n: [1, [2]]}", "3:17", 'item 2 of "-n" must be a single value, not a list'),
    jobs('sweep: {-n: ["\\0"]}', "3:14", 'item 1 of "-n" has a NUL character'),
    jobs("sweep: {-n: {linspce: [0, 1, 3]}}", "3:14", 'unknown key "linspce"', 'did you mean "linspace"?'),
    jobs("sweep: {-n: {form: 0, to: 3}}", "3:14", 'unknown key "form"', 'did you mean "from"?'),
    jobs("sweep: {-n: {from: 0}}", "3:13", '"-n": "to" is missing', "write {from: 0, to: 40}"),
    jobs("sweep: {-n: {to: 3}}", "3:13", '"-n": "from" is missing'),
    jobs("sweep: {-n: {from: 0, to: 3, step: 0}}", "3:36", '"-n": step must not be 0'),
    jobs("sweep: {-n: {from: 3, to: 0}}", "3:13", "step must be negative"),
    jobs("sweep: {-n: {from: 0, to: 3, step: -1}}", "3:36", "step must be positive"),
    jobs("sweep: {-n: {from: a, to: 3}}", "3:20", '"from": "a" is not a number'),
    jobs("sweep: {-n: {from: 0, to: 1e999}}", "3:27", "is too large or too small a number"),
    jobs("sweep: {-n: {from: 0, to: 1e99}}", "3:13", "more values than can be counted"),
    jobs("sweep: {-n: {linspace: [0, 1]}}", "3:24", '"linspace" must be [first, last, how many]'),
    jobs("sweep: {-n: {linspace: [0, 1, 0.1]}}", "3:31", "how many must be a whole number of at least 2"),
    jobs("sweep: {-n: {logspace: [0, 1, 3]}}", "3:25", "must be more than 0", "not their logarithms"),
    jobs("sweep: {-f: {glob: 'data/*.png'}}", "3:20", 'no file matches "data/*.png"', "looked for in"),
    jobs("sweep: {-f: {lines: none.txt}}", "3:21", '"none.txt": no such file', "looked for"),
    jobs("sweep: {-f: {lines: data}}", "3:21", '"data": is a folder, not a file'),
    jobs("sweep: {-f: {lines: empty.txt}}", "3:21", '"empty.txt" has no lines'),
    jobs("sweep: {-n: {flag: [yes]}}", "3:21", '"flag" must be true or false'),
    jobs("sweep: {fast: {flag: [true]}}", "3:9", '"fast" cannot be a flag', "--fast"),
    jobs("sweep: {--fast=: {flag: [true]}}", "3:9", '"--fast=" cannot be a flag'),
    jobs("sweep: [{-a: [1, 2, 3], -b: [1, 2]}]", "3:25", '"-a" has 3 values and "-b" has 2', "of its own"),
    jobs("sweep:\n  - -n: [1]\n  - -n: [2]", "5:5", '"-n" is in the sweep twice', "line 4"),
    jobs("sweep: {--n: [1], --n=: [2]}", "3:19", '"--n=" is in the sweep twice'),
    jobs("sweep: {n: [1]}", "3:9", 'the variable "n" is never used', "write -n for an option, or use {n}"),
    jobs("sweep: {size: [1]}", "3:9", 'the variable "size" is never used', "write --size"),
    jobs("sweep: {job: [1]}", "3:9", '"job" cannot be a variable', ""),
    jobs("sweep: {my n: [1]}", "3:9", '"my n" cannot be the name of a variable', "letters, digits"),
    jobs("sweep: {-n: [1], beta: [1]}\nargs: ['{bta}']", "4:8", "unknown variable {bta}", '"beta"?'),
    jobs("sweep: {-n: [1]}\nargs: ['{n}']", "4:8", "unknown variable {n}", '"-n" is an option'),
    jobs("args: ['{a}']", "3:8", 'unknown variable {a} in item 1 of "args"', "write {{a}} for the text {a}"),
    jobs("sweep: {t: [9, soon]}\nexpect: '{t}'", "4:9", '"expect" becomes "soon", which', 't is "soon"'),
    jobs("sweep: {t: [9, 0]}\nexpect: '{t}m'", "4:9", '"expect" becomes "0m", which is no duration above 0'),
    jobs("sweep: {t: {from: 0, to: 3}}\nexpect: '{t}'", "4:9", '"expect" becomes "0", which'),
    jobs("sweep: {t: [9]}\nexpect: '{t}'\ninclude: [{t: x}]", "4:9", '"expect" becomes "x", which'),
    jobs("sweep: [{csv: t.csv}]\nexpect: '{t}'", "4:9", '"expect" becomes "", which', 't is ""'),
    jobs("sweep: {-n: [1]}\nexpect: '{n}'", "4:9", 'unknown variable {n} in "expect"', '"-n" is an option'),
    jobs("expect: '{job}'", "3:9", '{job} in "expect" says nothing of time', "a variable of the sweep"),
    jobs("env: {X: '{who}'}", "3:10", 'unknown variable {who} in "X"'),
    jobs("sweep: [{csv: none.csv}]", "3:15", '"none.csv": no such file'),
    jobs("sweep: [{csv: empty.txt}]", "3:15", '"empty.txt" has no rows below a header'),
    jobs("sweep: [{csv: good.csv, -z: [1]}]", "3:25", '"-z" cannot stand beside csv', "entry of its own"),
    jobs("sweep: {-n: {csv: good.csv}}", "3:14", 'unknown key "csv"', "- {csv: FILE}"),
    jobs(
        "sweep: {-n: {from: 1, to: 2000000}}",
        "3:1",
        "the sweep has 2,000,000 combinations",
        "max_jobs: 2000000",
    ),
    jobs("max_jobs: 3\nsweep: {-n: [1, 2, 3, 4]}", "4:1", "4 combinations, more than 3"),
    jobs("sweep: {-n: [1]}\nexclude: {-n: 1}", "4:10", '"exclude" must be a list'),
    jobs("sweep: {-n: [1]}\nexclude: [{-m: 1}]", "4:12", '"-m" is not in the sweep', "known are -n"),
    jobs("sweep: {--beta: [1]}\ninclude: [{--bta: 1}]", "4:12", '"--bta" is not in', 'mean "--beta"?'),
    jobs("sweep: {-n: [1]}\ninclude: [{-n: [1]}]", "4:16", '"-n" must be a single value'),
    jobs("sweep: {-n: [1]}\ninclude: [{}]", "4:11", 'item 1 of "include" is empty'),
    jobs("sweep: {-n: [1], --f: {flag: true}}\ninclude: [{--f: 1}]", "4:17", "must be true or false"),
    jobs(
        "sweep: {-n: [1], m: [1]}\nargs: '{m}'\ninclude: [{-n: 2}]",
        "5:11",
        '"m" is missing: only options can be left out',
    ),
    jobs("sweep: {-n: [1, 2]}\nexclude: [{-n: [1, 2]}]", "4:1", "nothing is left"),
    jobs(f"sweep: {{n: [{'x' * 70000}]}}\nargs: ['{{n}}{{n}}']", "4:8", "becomes longer than"),
]

CLUSTERS = [
    cluster("slots: 3\n", "1:1", '"hosts" is missing'),
    cluster("[pc01]\n", "1:1", "must be a mapping of keys", "write hosts:"),
    cluster("hosts: []\n", "1:8", '"hosts" is empty'),
    cluster("hosts: pc01\n", "1:8", '"hosts" must be a list, not "pc01"'),
    cluster("hosts: [pc01]\nslots: 0\n", "2:8", '"pc01" never has a slot: slots is 0, and no window'),
    cluster("hosts:\n  - {host: a, slots: -2}\n", "2:22", '"slots" must be at least 0, not "-2"'),
    cluster("hosts: [pc01]\nslot: 2\n", "2:1", 'unknown key "slot"', 'did you mean "slots"?'),
    cluster("hosts: [pc01]\nwindow: []\n", "2:1", 'unknown key "window"', 'did you mean "windows"?'),
    cluster("hosts: [{host: a, slts: 1}]\n", "1:19", 'unknown key "slts"', 'did you mean "slots"?'),
    cluster("hosts: [{slots: 1}]\n", "1:9", '"host" is missing'),
    cluster("hosts: [[a]]\n", "1:9", 'item 1 of "hosts" must be a mapping, not a list'),
    cluster("hosts: [pc01, pc02, pc01]\n", "1:21", '"pc01" is listed twice', "{host: pc01, slots: 1}"),
    cluster("hosts:\n  - pc[01-34]\n  - {host: pc04}\n", "3:5", '"pc04" is listed twice without refining it'),
    cluster("hosts:\n  - pc[01-03,02]\n", "2:5", '"pc02" is listed twice'),
    cluster("hosts:\n  - pc[5-1]\n", "2:5", "the range 5-1, which ends before it begins"),
    cluster("hosts:\n  - pc[1-\n", "2:5", "a bracket too many or too few"),
    cluster("hosts:\n  - pc[1-a]\n", "2:5", "no number, name or range", "pc[01-34]"),
    cluster("hosts:\n  - pc[1-999999999]\n", "2:5", "more than 100,000 hosts"),
    cluster("hosts: [-oProxyCommand=x]\n", "1:9", "is no name of a host"),
    cluster("hosts: ['a b']\n", "1:9", "is no name of a host"),
    cluster("hosts: ['a:99999']\n", "1:9", "no good port after the colon"),
    cluster("hosts: ['@a']\n", "1:9", "no good user name before the @"),
    cluster("hosts: [a]\nport: 0\n", "2:7", '"port" must be at least 1'),
    cluster("hosts: [a]\nlease: 0.5\n", "2:8", '"lease" must be at least 1 second'),
    cluster("hosts: [a]\nlease: never\n", "2:8", '"lease" must be a duration'),
    cluster("hosts: [a]\nidentity: no_key\n", "2:11", 'there is no file "no_key"'),
]


def window(body: str, column: int, problem: str, tip: str = "") -> Bad:
    """Make a cluster file with a window, which begins in line 2 and column 11."""
    return cluster(f"hosts: [a]\nwindows: [{{{body}}}]\n", f"2:{column}", problem, tip)


TIMES = [
    cluster("hosts: [a]\nwindows: night\n", "2:10", '"windows" must be a list, not "night"'),
    cluster("hosts: [a]\nwindows: {slots: 1}\n", "2:10", '"windows" must be a list, not a mapping'),
    cluster("hosts: [a]\nwindows: [night]\n", "2:11", 'item 1 of "windows" must be a mapping'),
    window("hours: '1:00-2:00'", 11, 'item 1 of "windows" changes nothing', "slots: 0 for no jobs"),
    window("slot: 1", 12, 'unknown key "slot"', 'did you mean "slots"?'),
    window("slots: -1", 19, '"slots" must be at least 0'),
    window("nice: 20", 18, '"nice" must be at most 19'),
    window(
        "slots: 1, hours: night", 29, '"hours" must be two times of day, not "night"', 'write "22:00-06:30"'
    ),
    window(
        "slots: 1, hours: 22-6", 29, '"hours" must be two times of day, not "22-6"', 'write "22:00-06:30"'
    ),
    window("slots: 1, hours: 22:00-25:00", 29, '"hours" has a time that no clock shows: 25:00', "24:00"),
    window("slots: 1, hours: 22:60-23:00", 29, '"hours" has a time that no clock shows: 22:60'),
    window("slots: 1, hours: 24:00-06:00", 29, '"hours" begins at 24:00', "write 00:00"),
    window("slots: 1, hours: 22:00-22:00", 29, '"hours" ends when it begins', "leave hours out"),
    window("slots: 1, hours: [1:00-2:00, 3]", 41, 'item 2 of "hours" must be two times of day, not "3"'),
    window("slots: 1, hours: '1:00-2:00, 3:00'", 29, '"hours" must be two times of day, not " 3:00"'),
    window("slots: 1, hours: []", 29, '"hours" is empty'),
    window("slots: 1, hours: {from: 1}", 29, '"hours" must be a list, not a mapping'),
    window("slots: 1, days: []", 28, '"days" is empty'),
    window("slots: 1, days: frii", 28, '"days" has an unknown day: "frii"', 'did you mean "fri"?'),
    window("slots: 1, days: 'mon-'", 28, '"days" has an unknown day: ""', "known are mon, tue"),
    window("slots: 1, days: [mon, [tue]]", 34, 'item 2 of "days" must be weekdays, not a list', "mon-fri"),
    window("slots: 1, days: [mon, tu]", 34, 'item 2 of "days" has an unknown day: "tu"', '"tue"'),
    window("slots: 1, dates: soon", 29, '"dates" has no date where one should be: "soon"', "2026-12-24"),
    window("slots: 1, dates: 24.12.2026", 29, '"dates" has no date where one should be', "2026-12-24"),
    window("slots: 1, dates: 2026-02-29", 29, '"dates" has a day that no calendar has: "2026-02-29"'),
    window("slots: 1, dates: 2026-05-01..2026-04-30", 29, '"dates" ends before it begins'),
    window("slots: 1, dates: [2026-05-01, 2026-05]", 42, 'item 2 of "dates" has no date'),
    window("slots: 1, dates: [{a: b}]", 30, 'item 1 of "dates" must be one date or two, not a mapping'),
    cluster(
        "slots: 0\nhosts:\n  - a\n  - {host: b, windows: []}\nwindows: [{slots: 1}]\n",
        "4:5",
        '"b" never has a slot',
        "remove it from hosts",
    ),
    cluster(
        "hosts:\n  - a\n  - {host: a, slots: 0}\nwindows: [{slots: 0}]\n", "3:22", '"a" never has a slot'
    ),
    cluster(
        "hosts: [a]\ntimezone: Europe/Berlni\n",
        "2:11",
        '"timezone" is no time zone that is known here: "Europe/Berlni"',
        'did you mean "Europe/Berlin"',
    ),
    cluster("hosts: [a]\ntimezone: [UTC]\n", "2:11", '"timezone" must be a text, not a list'),
    cluster("hosts: [{host: a, timezone: UTC}]\n", "1:19", 'unknown key "timezone"'),
]

OTHERS = [
    cluster("hosts: [a]\nat_edge: stop\n", "2:10", '"at_edge" must be finish, pause or requeue, not "stop"'),
    cluster("hosts: [a]\nat_edge: finsh\n", "2:10", '"at_edge" must be finish', 'did you mean "finish"?'),
    cluster("hosts: [{host: a, at_edge: []}]\n", "1:28", '"at_edge" must be finish', ""),
    cluster("hosts: [a]\nowner: me\n", "2:8", '"owner" must be pause, requeue or ignore'),
    cluster("hosts: [a]\nowner: [pause]\n", "2:8", "pause, requeue or ignore or a mapping, not a list"),
    cluster("hosts: [a]\nowner: {policy: stop}\n", "2:17", '"policy" must be pause, requeue or ignore'),
    cluster("hosts: [a]\nowner: {idel: 5m}\n", "2:9", 'unknown key "idel"', 'did you mean "idle"?'),
    cluster("hosts: [a]\nowner: {idle: long}\n", "2:15", '"idle" must be a duration, not "long"', "15m"),
    cluster("hosts: [a]\nowner: {load: 0}\n", "2:15", '"load" must be more than 0', "owner: ignore"),
    cluster("hosts: [a]\nowner: {load: 50%}\n", "2:15", '"load" must be a number of cores', "write 0.5"),
    cluster("hosts: [{host: a, owner: {quiet: -1}}]\n", "1:34", '"quiet" must be a duration'),
    cluster("hosts: [a]\nmin_free_memory: some\n", "2:18", '"min_free_memory" must be a size', "500M"),
    cluster("hosts: [a]\nmin_free_space: 1 X\n", "2:17", '"min_free_space" must be a size', "2G"),
    cluster("hosts: [{host: a, min_free_space: 1G}]\n", "1:19", 'unknown key "min_free_space"'),
    cluster("hosts: [a]\ncontact: [me]\n", "2:10", '"contact" must be a text, not a list'),
]

PISA = [
    task("var_arguments = []", "6:17", '"var_arguments" is empty'),
    task("", "1:1", '"var_arguments" is missing'),
    task("fix_arguments = ''\nvar_arguments = ]", "7:17", "not valid TOML"),
    task("fix_argument = ''\nvar_arguments = []", "6:1", 'unknown key "fix_argument"', '"fix_arguments"?'),
    task('working_directory = "~"', "6:1", "cannot both be given", "remove one"),
    task("fix_arguments = 3\nvar_arguments = []", "6:17", '"fix_arguments" must be a text, not 3'),
    task(
        "fix_arguments = \"'\"\nvar_arguments = [\n{arg='-n', type='numeric', start=0, end=4, step=1}]",
        "6:17",
        "quote",
    ),
    task(
        'var_arguments = [\n  {"arg"="-n", "type"="text", "start"=0, "end"=4, "step"=1},\n]',
        "7:23",
        '"type" must be numeric, not "text"',
    ),
    task(
        'var_arguments = [\n  {"arg"="-n", "type"="numeric", "start"=0, "end"=4},\n]',
        "7:3",
        '"step" is missing',
    ),
    task(
        'var_arguments = [\n  {"arg"="-n", "type"="numeric", "start"=0, "end"=4, "step"=0},\n]',
        "7:61",
        '"-n": step must not be 0',
    ),
    task(
        "[[var_arguments]]\narg = '-n'\ntype = 'numeric'\nstart = 0\nend = 'x'\nstep = 1",
        "10:7",
        '"x" is not a number',
    ),
    task(
        "[[var_arguments]]\narg = '-n'\ntype = 'numeric'\nstart = true\nend = 1\nstep = 1",
        "9:9",
        '"start" must be a number, not true',
    ),
    task(
        'var_arguments = [{arg="n", type="numeric", start=0, end=4, step=1}]',
        "6:23",
        '"arg" must be an option such as -n, not "n"',
    ),
    Bad("task.toml", TASK.replace('"venv"', '"nope"') + "var_arguments = [{}]", "6:18", '"arg" is missing'),
    Bad(
        "task.toml",
        TASK.replace('"venv"', '"nope"') + 'var_arguments = [{arg="-n",type="numeric",start=0,end=4,step=1}]',
        "2:15",
        'there is no folder "nope"',
    ),
    devices("", "1:1", "the file is empty"),
    devices('{"all": {"num_tasks": 3}, "devices": [}', "1:39", "not valid JSON"),
    devices("[1]", "1:1", "must be an object"),
    devices('{"devices": ["a"]}', "1:1", '"all" is missing'),
    devices('{"all": {}, "devices": ["a"]}', "1:9", '"num_tasks" is missing'),
    devices('{"all": {"num_tasks": 0}, "devices": ["a"]}', "1:23", '"num_tasks" must be at least 1, not 0'),
    devices('{"all": {"num_tasks": true}, "devices": ["a"]}', "1:23", "must be a whole number, not true"),
    devices('{\n\t"all": {"num_tasks": 3},\n\t"devices": []\n}', "3:13", '"devices" is empty'),
    devices('{"all": {"num_tasks": 3}, "devices": ["a", 5]}', "1:44", "must be a mapping, not 5"),
    devices('{"all": {"num_tasks": 3}, "devices": ["a", {"num_tasks": 1}]}', "1:44", '"device" is missing'),
    devices('{"all": {"num_tasks": 3}, "devices": ["-x"]}', "1:39", "is no name of a host"),
    devices('{"all": {"num_tasks": 3}, "all": {}, "devices": ["a"]}', "1:27", '"all" is there twice'),
]

TABLE = [*UNREADABLE, *KEYS, *PATHS, *SWEEPS, *CLUSTERS, *TIMES, *OTHERS, *PISA]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "fib.py").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "good.csv").write_text("-a,-b\n1,2\n")
    (tmp_path / "t.csv").write_text("-a,t\n1,90\n2,\n")
    return tmp_path


def identify(bad: Bad) -> str:
    return f"{bad.name}-{bad.place}-{bad.problem[:50]}"


@pytest.mark.parametrize("bad", TABLE, ids=identify)
def test_a_bad_file_gives_one_line_with_its_place_and_a_tip(bad: Bad, folder: Path) -> None:
    path = Path(bad.name)
    path.write_bytes(bad.text if isinstance(bad.text, bytes) else bad.text.encode())
    before = sorted(os.walk(folder))
    load = load_cluster if bad.name.startswith("cluster") else load_batch

    with pytest.raises(SpecError) as caught:
        load(path)

    error = caught.value
    assert error.exit_code == EXIT_INVALID
    assert error.message.startswith(f"{bad.name}:{bad.place}: ")
    assert bad.problem in error.message
    assert bad.tip in error.hint
    assert len(error.message.splitlines()) == 1
    assert len(error.hint.splitlines()) <= 1
    assert "pydantic" not in str(error).lower()
    assert sorted(os.walk(folder)) == before  # nothing was written


# Nothing can be of such a name: the system gives an error, as it does where a user may not look.
UNSPEAKABLE = "x" * 300


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.yaml", "script: {}\noutput: run\n"),
        ("jobs.yaml", "command: [./{}]\noutput: run\n"),
        ("jobs.yaml", "script: fib.py\noutput: run\nworkdir: {}\n"),
        ("jobs.yaml", "script: fib.py\noutput: run\nvenv: {}\n"),
        ("jobs.yaml", "script: fib.py\noutput: run\ncluster: {}\n"),
        ("cluster.yaml", "hosts: [a]\nidentity: {}\n"),
    ],
)
def test_where_nobody_can_look_there_is_nothing_and_the_tip_says_why(
    name: str, text: str, folder: Path
) -> None:
    Path(name).write_text(text.format(UNSPEAKABLE))
    with pytest.raises(SpecError, match=r"there is no (file|folder)") as caught:
        (load_cluster if name.startswith("cluster") else load_batch)(Path(name))
    assert caught.value.hint.endswith(": file name too long")


def test_a_run_directory_where_nobody_can_look_is_no_mistake_of_the_file(folder: Path) -> None:
    Path("jobs.yaml").write_text(f"script: fib.py\noutput: {UNSPEAKABLE}\n")
    assert load_batch(Path("jobs.yaml")).output == folder / UNSPEAKABLE


def test_the_table_is_long_enough_and_has_no_row_twice() -> None:
    assert len({(bad.name, bad.text) for bad in TABLE}) == len(TABLE) >= 60


GOOD = [
    Bad(
        "jobs.yaml",
        "script: fib.py\noutput: r\nargs: ['{v}']\nenv: {A: 'x{job}'}\nsweep:\n  - v: [1, 2]\n"
        "    --f: {flag: [true, false]}\n  - {csv: good.csv}\n  - -n: {from: 0.1, to: 0.3, step: 0.1}\n"
        "exclude: [{v: 1}]\ninclude: [{v: 2}]\nresults: {regex: '(?P<a>.)'}\ntimeout: 5m\n",
        "",
        "",
    ),
    Bad("task.toml", TASK + "var_arguments = [{arg='-n',type='numeric',start=0,end=4,step=1}]\n", "", ""),
    Bad("cluster.yaml", "slots: 3\nhosts:\n  - pc[01-34]\n  - {host: pc04, slots: 1}\nlease: 60s\n", "", ""),
    Bad(
        "cluster.yaml",
        "timezone: Europe/Berlin\nat_edge: finish\nhosts: [a, {host: b, windows: [{nice: 3}]}]\n"
        "windows:\n  - {hours: '22:00-06:30', days: mon-fri, dates: 2026-12-24..2027-01-06, slots: 0}\n"
        "owner: {policy: pause, idle: 0, quiet: 5m, load: 0.5}\nmin_free_memory: 1G\n",
        "",
        "",
    ),
    Bad(
        "cluster.json", '{"all": {"num_tasks": 3}, "devices": ["a", {"device": "b", "num_tasks": 1}]}', "", ""
    ),
]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(GOOD),
    st.integers(0, 300),
    st.integers(0, 4),
    st.text("{}[],:-=~'\"\n\t#&*!<0a\0é", max_size=3),
)
def test_a_slip_of_the_keyboard_is_never_taken_for_a_bug(
    folder: Path, good: Bad, start: int, gone: int, typed: str
) -> None:
    assert isinstance(good.text, str)
    Path(good.name).write_text(good.text[:start] + typed + good.text[start + gone :])
    try:
        if good.name.startswith("cluster"):
            assert load_cluster(Path(good.name)).hosts
        else:
            assert load_batch(Path(good.name)).plan.job(0, 0).argv
    except SpecError as error:
        assert len(error.message.splitlines()) == 1


@pytest.mark.parametrize("name", ["jobs.yaml", "task.toml", "cluster.yaml", "cluster.json"])
def test_a_file_that_is_not_there_is_named(name: str, folder: Path) -> None:
    load = load_cluster if name.startswith("cluster") else load_batch
    with pytest.raises(SpecError, match=f"^{name}: no such file$"):
        load(Path(name))


def test_a_folder_is_not_taken_for_a_file(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"^data: is a folder without a jobs.yaml\n"):
        load_batch(Path("data"))
    with pytest.raises(SpecError, match=r"^data: is a folder, not a file$"):
        load_cluster(Path("data"))


def test_a_mistake_in_the_jobs_file_of_a_folder_is_shown_in_that_file(folder: Path) -> None:
    (folder / "data" / "jobs.yaml").write_text("ouput: run\n")
    with pytest.raises(SpecError, match=r"^data/jobs.yaml:1:1: unknown key"):
        load_batch(Path("data"))


def test_the_path_in_the_message_is_as_the_user_gave_it(folder: Path) -> None:
    (folder / "data" / "jobs.yaml").write_text("nonsense: 1\noutput: run\nscript: a\n")
    with pytest.raises(SpecError, match=r"^data/jobs.yaml:1:1: unknown key"):
        load_batch(Path("data/jobs.yaml"))
    with pytest.raises(SpecError) as caught:
        load_batch(folder / "data" / "jobs.yaml")
    assert caught.value.message.startswith(f"{folder}/data/jobs.yaml:1:1: ")


@pytest.mark.parametrize(
    ("table", "place", "problem"),
    [
        ("-a,-b\n1,2\n1\n", "3:1", "has 1 cells, but the header has 2"),
        ("-a,-a\n1,2\n", "1:1", 'the column "-a" is there twice'),
        ('-a,-b\n1,"2\n', "2:1", "not valid CSV"),
    ],
)
def test_a_mistake_in_a_csv_file_is_shown_in_that_file(
    folder: Path, table: str, place: str, problem: str
) -> None:
    (folder / "points.csv").write_text(table)
    (folder / "jobs.yaml").write_text("script: fib.py\noutput: run\nsweep: [{csv: points.csv}]\n")
    with pytest.raises(SpecError) as caught:
        load_batch(Path("jobs.yaml"))
    assert caught.value.message.startswith(f"{folder}/points.csv:{place}: ")
    assert problem in caught.value.message
