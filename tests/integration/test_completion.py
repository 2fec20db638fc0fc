"""What the shell completes, `--list` and `--help`: for people who look for a command or an option."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Completed, Home, Project
from terminal import COLUMNS, CTRL_D, Terminal

Run = Callable[..., Completed]

COMMANDS = ["cancel", "check", "collect", "dryrun", "here", "hosts", "init", "logs", "status", "submit"]
NAMESPACE = (
    "from invoke import Collection\nimport pisa_fab\n"
    "ns = Collection()\nns.add_collection(pisa_fab.tasks, 'pisa')\n"
)
DISCARD_LINE = "\x15"  # Ctrl-U
INTERNAL = ("pisa_fab-begin", "pisa_fab-finish", "connections")
# Asks bash what it would offer for a line that ends where the cursor is; an empty last word is one, too.
ASK_BASH = """
source <({program} --print-completion-script bash) || exit
[[ $(complete -p {program}) =~ -F\\ ([^ ]+) ]] || exit
COMP_LINE=$1 COMP_POINT=${{#1}}
read -ra COMP_WORDS <<<"$1"
[[ $1 != *" " ]] || COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
"${{BASH_REMATCH[1]}}" {program} "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def path_with_programs(home: Home) -> dict[str, str]:
    """An environment in which the shell finds `inv` and `pisa-fab`, as an activated venv has it."""
    return {"PATH": f"{Path(sys.executable).parent}:{home.env['PATH']}"}


@pytest.fixture
def offered(run_program: Run, path_with_programs: dict[str, str]) -> Callable[[str], list[str]]:
    """Gives what bash offers when TAB is pressed at the end of a line."""

    def offered(line: str) -> list[str]:
        script = ASK_BASH.format(program=line.split()[0])
        done = run_program("bash", "--norc", "-c", script, "bash", line, env=path_with_programs)
        assert done.returncode == 0, done.said
        assert done.stderr == "", done.said
        return sorted(done.stdout.split())

    return offered


# -- completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["inv", "pisa-fab"])
def test_commands_and_their_options_are_offered(offered: Callable[[str], list[str]], program: str) -> None:
    assert offered(f"{program} ") == COMMANDS
    assert offered(f"{program} s") == ["status", "submit"]
    assert {"--jobs", "--only", "--detach", "--retry-failed", "--dry-run", "--sweep"} <= set(
        offered(f"{program} submit --")
    )
    assert offered(f"{program} submit -j jobs.yaml --re") == [
        "--rerun",
        "--results",
        "--retries",
        "--retry-failed",
    ]
    assert offered(f"{program} check -c pool.yaml --") == [
        "--accept-new",
        "--cluster",
        "--install-key",
        "--jobs",
        "--json",
    ]
    assert offered(f"{program} logs 7 --f") == ["--follow"]
    assert {"--list", "--help"} <= set(offered(f"{program} --"))
    assert offered(f"{program} submit --jobs ") == []  # so that the shell offers files


def test_a_namespace_is_completed(project: Project, offered: Callable[[str], list[str]]) -> None:
    project.write("tasks.py", NAMESPACE)
    assert offered("inv pisa.") == [f"pisa.{name}" for name in COMMANDS]
    assert offered("inv pisa.su") == ["pisa.submit"]
    assert {"--jobs", "--only", "--detach"} <= set(offered("inv pisa.submit --"))


def test_fab_is_completed_behind_its_hosts(project: Project, offered: Callable[[str], list[str]]) -> None:
    shutil.copy(project.path / "tasks.py", project.path / "fabfile.py")
    assert offered("fab -H pc01,pc02 submit --de") == ["--detach"]


def test_a_shell_that_a_person_types_into(
    project: Project, home: Home, path_with_programs: dict[str, str]
) -> None:
    project.write("night.yaml", "")
    env = {**home.env, **path_with_programs, "PS1": "ready ", "TERM": "xterm"}
    with Terminal(["bash", "--norc", "--noprofile", "-i"], project.path, env) as shell:
        seen = 0
        for program in ("inv", "pisa-fab"):
            seen = shell.answer("^ready$", f"source <({program} --print-completion-script bash)", seen)
        shell.wait_for_line("^ready$", seen)
        for typed, completed in (
            ("inv submit --det", "inv submit --detach"),
            ("pisa-fab che", "pisa-fab check"),
            ("pisa-fab submit -j ni", "pisa-fab submit -j night.yaml"),
        ):
            shell.type(f"{typed}\t")
            shell.wait_for_line(f"{completed}$")
            shell.type(DISCARD_LINE)
        shell.type(CTRL_D)
        assert shell.wait() == 0, shell.lines


@pytest.mark.parametrize("program", ["inv", "fab", "pisa-fab"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(
    project: Project, run_program: Run, program: str, shell: str, tmp_path: Path
) -> None:
    shutil.copy(project.path / "tasks.py", project.path / "fabfile.py")
    done = run_program(program, "--print-completion-script", shell)
    assert done.returncode == 0, done.said
    assert program in done.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(done.stdout)
        assert run_program(shell, "-n", script).returncode == 0  # reads it, runs nothing


# -- lists and help -----------------------------------------------------------------------------------------


def assert_readable(done: Completed) -> None:
    assert done.returncode == 0, done.said
    assert done.stderr == "", done.said
    assert [line for line in done.stdout.splitlines() if len(line) > COLUMNS] == []
    assert not any(word in done.stdout for word in INTERNAL), done.said


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_terminal_and_leaves_nothing_out(run_program: Run, command: str) -> None:
    env = {"COLUMNS": str(COLUMNS)}
    for program in ("inv", "pisa-fab"):
        done = run_program(program, "--help", command, env=env)
        assert_readable(done)
        _, docstring, options = (part.splitlines() for part in split_help(done.stdout))
        assert docstring[0].strip()
        described = [line for line in options if line.startswith("  -")]
        assert described
        # Invoke puts the words beside the option, two blanks away at least.
        assert [line for line in described if len(line.strip().split("  ", 1)) < 2] == []


def test_help_after_the_command_that_wants_a_number(run_program: Run) -> None:
    assert run_program("inv", "submit", "--help").stdout.startswith("Usage: ")
    done = run_program("inv", "logs", "--help")
    assert (done.returncode, done.stderr) == (
        2,
        "--help goes before this command\n  tip: write: --help logs\n",
    )


def split_help(text: str) -> list[str]:
    """Give usage, docstring and options of a task's help."""
    usage, _, rest = text.partition("\nDocstring:\n")
    docstring, _, options = rest.partition("\nOptions:\n")
    return [usage, docstring, options]


@pytest.mark.parametrize("namespace", [False, True])
def test_the_list_of_commands_fits_a_terminal(project: Project, run_program: Run, namespace: bool) -> None:
    if namespace:
        project.write("tasks.py", NAMESPACE)
    prefix = "pisa." if namespace else ""
    wanted = [f"{prefix}{name}" for name in COMMANDS]
    for program in ("inv",) if namespace else ("inv", "pisa-fab"):
        done = run_program(program, "--list", env={"COLUMNS": str(COLUMNS)})
        assert_readable(done)
        rows = [line.split() for line in done.stdout.splitlines() if line[:2] == "  " and line[2:3].strip()]
        assert [row[0] for row in rows] == wanted
        assert all(len(row) > 3 for row in rows), rows


def test_the_list_of_commands_for_programs(project: Project, run_program: Run) -> None:
    plain = run_program("inv", "--list", "--list-format=json")
    assert_says_all(plain, json.loads(plain.stdout))
    project.write("tasks.py", NAMESPACE)
    below = run_program("inv", "--list", "--list-format=json")
    (collection,) = json.loads(below.stdout)["collections"]
    assert collection["help"] == "Batches of jobs on a pool of PCs."
    assert_says_all(below, collection)


def assert_says_all(done: Completed, data: dict[str, list[dict[str, object]]]) -> None:
    assert done.returncode == 0, done.said
    assert [entry["name"] for entry in data["tasks"]] == COMMANDS
    assert all(entry["help"] for entry in data["tasks"]), done.said
    assert not any(word in done.stdout for word in INTERNAL), done.said
