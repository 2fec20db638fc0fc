"""The harness itself, proved with plain `ssh`: what the other integration tests take for granted."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import assert_all_gone, born_in, wait_for
from programs import Completed, Home, Program, Project
from sshd import Hosts, SshHost

SLEEP = "sleep 1000"


def ssh(hosts: Hosts, home: Home, host: SshHost, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        hosts.ssh(host.name, command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=home.env,
        check=False,
    )


def hold(hosts: Hosts, home: Home, host: SshHost, command: str = SLEEP) -> subprocess.Popen[str]:
    """Keep a connection open on which a command runs, and return once it does."""
    before = len(host.started_there())
    client = subprocess.Popen(
        hosts.ssh(host.name, command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=home.env,
    )
    wait_for(lambda: len(host.started_there()) > before, f"{command!r} on {host.name}")
    return client


def sleeps(host: SshHost) -> bool:
    return any(process.name == "sleep" for process in host.started_there())


def connects(host: SshHost) -> bool:
    try:
        socket.create_connection(("127.0.0.1", host.port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def test_each_host_answers_under_its_own_name(hosts: Hosts, home: Home) -> None:
    started = hosts.start(3)
    assert [host.name for host in started] == ["pc01", "pc02", "pc03"]
    assert len({host.port for host in started}) == 3
    for host in started:
        done = ssh(hosts, home, host, "echo $PISA_TEST_HOST")
        assert (done.stdout, done.returncode) == (f"{host.folder}\n", 0), done.stderr


def test_hosts_share_the_home_of_the_test_and_read_nobody_elses(hosts: Hosts, home: Home) -> None:
    first, second = hosts.start(2)
    (home.path / ".bashrc").write_text("")
    assert ssh(hosts, home, first, "echo $HOME; echo hello > $HOME/note").stdout == f"{home.path}\n"
    assert ssh(hosts, home, second, "cat $HOME/note").stdout == "hello\n"


def test_a_host_has_a_python3(hosts: Hosts, home: Home) -> None:
    with_python, without = hosts.start(1)[0], hosts.start(1, python=False)[0]
    code = "import sys; print(sys.version_info[:2])"
    assert ssh(hosts, home, with_python, f"python3 -c '{code}'").stdout == f"{sys.version_info[:2]}\n"
    assert ssh(hosts, home, without, f"python3 -c '{code}'").returncode == 127


def test_a_greeting_comes_before_the_output_and_keeps_the_exit_code(hosts: Hosts, home: Home) -> None:
    (host,) = hosts.start(1, greeting='It\'s 22°, "$HOME"')
    done = ssh(hosts, home, host, "echo 'a  b'; exit 3")
    assert (done.stdout, done.returncode) == ('It\'s 22°, "$HOME"a  b\n', 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"refuse_key": True}, "Permission denied"),
        ({"unknown_key": True}, "Host key verification failed"),
        ({"wrong_key": True}, "REMOTE HOST IDENTIFICATION HAS CHANGED"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_host_can_refuse_or_be_refused(
    hosts: Hosts, home: Home, options: dict[str, bool], complaint: str
) -> None:
    (bad,), (good,) = hosts.start(1, **options), hosts.start(1)
    done = ssh(hosts, home, bad, "true")
    assert done.returncode == 255
    assert complaint in done.stderr
    assert ssh(hosts, home, good, "true").returncode == 0


@pytest.mark.root
def test_a_host_can_be_blind_for_a_folder(hosts: Hosts, home: Home, project: Project) -> None:
    project.write("seen", "x")
    (blind,), (seeing,) = hosts.start(1, hide=[project.path]), hosts.start(1)
    look = f"ls {project.path}"
    assert ssh(hosts, home, blind, look).stdout == ""
    assert "seen" in ssh(hosts, home, seeing, look).stdout
    assert (project.path / "seen").read_text() == "x"


def test_a_stopped_host_refuses_new_connections_and_keeps_the_old(hosts: Hosts, home: Home) -> None:
    (host,) = hosts.start(1)
    client = hold(hosts, home, host, "cat")
    host.stop()
    assert not connects(host)
    out, _ = client.communicate("still here")
    assert (out, client.returncode) == ("still here", 0)


def test_a_host_that_was_stopped_comes_back_under_the_same_port(hosts: Hosts, home: Home) -> None:
    (host,) = hosts.start(1)
    port = host.port
    host.stop()
    host.start_again()
    assert host.port == port
    assert ssh(hosts, home, host, "true").returncode == 0


def test_a_crash_ends_everything_even_what_left_its_session(hosts: Hosts, home: Home) -> None:
    host, other = hosts.start(2)
    client = hold(hosts, home, host, f"setsid {SLEEP} & setsid setsid {SLEEP} & {SLEEP}")
    bystander = hold(hosts, home, other)
    wait_for(lambda: sum(p.name == "sleep" for p in host.started_there()) == 3, "three sleeps")
    host.crash()
    assert host.processes() == []
    assert client.wait() == 255
    client.communicate()
    assert not connects(host)
    assert sleeps(other)
    host.start_again()
    assert ssh(hosts, home, host, "true").returncode == 0
    other.crash()
    bystander.communicate()


def test_a_killed_link_ends_the_connection_and_the_input_but_not_the_job(hosts: Hosts, home: Home) -> None:
    (host,) = hosts.start(1)
    reader = hold(hosts, home, host, "cat")
    sleeper = hold(hosts, home, host)
    host.kill_link()
    for client in (reader, sleeper):
        client.communicate()
        assert client.returncode == 255
    wait_for(
        lambda: not any(p.name == "cat" for p in host.started_there()), "cat to see the end of its input"
    )
    assert sleeps(host)
    assert ssh(hosts, home, host, "true").returncode == 0
    host.crash()


def test_a_frozen_host_is_silent_until_it_thaws(hosts: Hosts, home: Home) -> None:
    (host,) = hosts.start(1)
    client = hold(hosts, home, host, "cat")
    host.freeze()
    assert {process.state for process in host.processes()} == {"T"}
    assert client.stdin is not None
    client.stdin.write("hello")
    client.stdin.close()
    client.stdin = None
    assert client.poll() is None
    host.thaw()
    assert client.communicate()[0] == "hello"


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(hosts: Hosts) -> None:
    (host,) = hosts.start(1)
    port = host.port
    host.stop()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        host.boot()
        host.await_listening()
        assert host.port != port
    assert connects(host)


def test_what_a_host_leaves_behind_is_found_and_fails_the_test(
    hosts: Hosts, home: Home, tmp_path: Path
) -> None:
    (host,) = hosts.start(1)
    client = hold(hosts, home, host)
    hosts.disconnect()
    client.communicate()
    with pytest.raises(AssertionError, match=SLEEP):
        assert_all_gone(tmp_path, deadline=0.0)
    assert born_in(tmp_path) == []


def test_programs_see_the_home_of_the_test_only(
    run_program: Callable[..., Completed], home: Home, project: Project
) -> None:
    done = run_program("sh", "-c", 'echo "$HOME"; pwd; cat; exit 5', stdin="given\n")
    assert done.returncode == 5
    assert done.stdout.splitlines() == [str(home.path), str(project.path), "given"]
    assert Path.home() != home.path
    assert list(Path.home().iterdir()) == []


def test_programs_of_this_environment_come_first(run_program: Callable[..., Completed]) -> None:
    done = run_program("inv", "--version")
    assert done.returncode == 0, done.said
    assert done.args[0] == str(Path(sys.executable).parent / "inv")
    assert done.stdout.startswith("Invoke ")


def test_a_program_in_the_background_can_be_watched_and_interrupted(
    start_program: Callable[..., Program],
) -> None:
    program = start_program("sh", "-c", f"trap 'kill $!; echo bye; exit 130' INT; echo up; {SLEEP} & wait")
    program.wait_for_output("up")
    assert program.running()
    program.interrupt()
    done = program.wait()
    assert (done.returncode, done.stdout) == (130, "up\nbye\n")


def test_waiting_for_output_that_never_comes_fails_at_once(start_program: Callable[..., Program]) -> None:
    program = start_program("sh", "-c", "echo something else")
    with pytest.raises(AssertionError, match="something else"):
        program.wait_for_output("the right thing")


def test_a_killed_program_shows_the_signal(start_program: Callable[..., Program]) -> None:
    program = start_program("sleep", "1000")
    program.kill()
    assert program.wait().returncode == -signal.SIGKILL
