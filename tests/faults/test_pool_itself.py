"""The pool of namespaces itself, proved with plain `ssh`: what the other tests of faults take for granted."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from marks import hosts
from mounts import links_on_the_way, view
from namespaces import NamespacePool
from pcs import BootError
from processes import PROC, Process, below, born_in, everything, wait_for
from programs import Completed, Programs, Project

pytestmark = pytest.mark.root
Run = Callable[..., Completed]
needs_namespaces = pytest.mark.usefixtures("namespaces")
BATCH = ["ssh", "-o", "BatchMode=yes"]
ENDING = "echo here; exec cat"  # with its connection
LASTING = "echo here; exec sleep 1000"  # whatever becomes of the connection
# Says how a plain connection to sshd ends; with a second argument only after a line of input, and by asking.
LISTENING = """
import socket, sys
link = socket.create_connection((sys.argv[1], 22))
print(link.recv(4), flush=True)
try:
    if sys.argv[2:]:
        sys.stdin.readline()
        link.sendall(b"SSH-2.0-test\\r\\n")
    while link.recv(1000):
        pass
    print("end")
except OSError as error:
    print(type(error).__name__)
"""


def ssh(pool: NamespacePool, name: str, command: str, *options: str, head: str = "head") -> Completed:
    argv = [*pool.prefix(head), *BATCH, *options, name, command]
    done = subprocess.run(
        argv, capture_output=True, text=True, env=pool.environment, cwd=pool.home, check=False
    )
    return Completed(argv, done.returncode, done.stdout, done.stderr)


def vanishes(pool: NamespacePool, name: str) -> bool:
    """Whether nobody answers, not even with a refusal."""
    done = ssh(pool, name, "true", "-o", "ConnectTimeout=2")
    return done.returncode == 255 and "timed out" in done.stderr


def hold(pool: NamespacePool, name: str, command: str = ENDING) -> subprocess.Popen[str]:
    """Keep a connection open on which a command runs, and return once it does."""
    return start(pool, "here\n", *BATCH, name, command)


def listen(pool: NamespacePool, name: str, *asking: str) -> subprocess.Popen[str]:
    """Keep a plain connection to a host's sshd open; it says how that ends."""
    return start(pool, "b'SSH-'\n", sys.executable, "-c", LISTENING, name, *asking)


def start(pool: NamespacePool, said: str, *command: str) -> subprocess.Popen[str]:
    """Start a command on the head and return once it has said something."""
    client = subprocess.Popen(
        [*pool.prefix(), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=pool.environment,
        cwd=pool.home,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == said
    return client


def names_on(pool: NamespacePool, name: str) -> list[str]:
    """Give the names of what the user runs on a host."""
    return [process.name for process in pool[name].started_there()]


def works(client: subprocess.Popen[str]) -> bool:
    return client.poll() is None


def end(client: subprocess.Popen[str]) -> None:
    client.kill()
    client.communicate()


def spaces_of(process: Process) -> set[Path]:
    """Give the namespaces of a process that are not our own."""
    kinds = [Path(kind) for kind in ("net", "mnt", "uts", "ipc", "pid")]
    with suppress(OSError):  # it has ended meanwhile
        links = {(PROC / str(process.pid) / "ns" / kind).readlink() for kind in kinds}
        return links - {(Path("/proc/self/ns") / kind).readlink() for kind in kinds}
    return set()


def spaces_of_pool(pool: NamespacePool) -> set[Path]:
    seats = [pool.bridge.pid, *(pc.seat.pid for pc in pool.pcs if pc.seat is not None)]
    among = everything()
    roots = [process for process in among if process.pid in seats]
    return {space for process in [*roots, *below(seats, among)] for space in spaces_of(process)}


def in_spaces(spaces: set[Path]) -> list[str]:
    """Describe the processes that hold some of the namespaces."""
    return [process.describe() for process in everything() if spaces_of(process) & spaces]


def traces() -> dict[str, object]:
    """Give what else a pool might leave on this machine."""
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
    names = Path("/run/netns")
    return {
        "links": {link["ifname"] for link in links},
        "names": sorted(names.iterdir()) if names.exists() else [],
        "users": Path("/etc/passwd").read_text(),
        "hostname": os.uname().nodename,
    }


def that_see(folder: Path) -> list[str]:
    """Describe the processes with mounts of their own from a folder, as all of a PC have."""
    ours = Path("/proc/self/ns/mnt").readlink()
    found = []
    for process in everything():
        path = PROC / str(process.pid)
        with suppress(OSError):  # it has ended meanwhile
            if (path / "ns" / "mnt").readlink() != ours and f"{folder}/" in (path / "mountinfo").read_text():
                found.append(process.describe())
    return found


def mounted_in(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]


# -- what a PC is -------------------------------------------------------------------------------------------


@hosts(4, heads=2)
def test_hosts_answer_under_their_own_names_and_share_a_home(pool: NamespacePool) -> None:
    assert pool.names == ["pc01", "pc02", "pc03", "pc04"]
    for name in pool.names:
        done = ssh(pool, name, 'hostname; echo "$HOME"; id -un; echo x >>note')
        assert done.stdout == f"{name}\n{pool.home}\nstudent\n", done.said
    assert (pool.home / "note").read_text() == "x\n" * 4
    assert (pool.home / "note").stat().st_uid == pool.uid
    for head in ("head2", "pc03"):
        assert ssh(pool, "pc01", "hostname", head=head).stdout == "pc01\n"
        assert subprocess.run([*pool.prefix(head), "hostname"], capture_output=True, check=True).stdout == (
            f"{head}\n".encode()
        )


@hosts()
def test_python3_is_the_interpreter_of_the_tests_without_its_venv(pool: NamespacePool) -> None:
    done = ssh(pool, "pc01", "python3 -c 'import sys; print(sys.version); print(sys.prefix)'")
    assert done.stdout == f"{sys.version}\n{sys.base_prefix}\n", done.said


@hosts()
def test_programs_of_the_checkout_run_on_the_head_and_on_a_host(
    pool: NamespacePool, project: Project, programs_on: Callable[[str], Programs]
) -> None:
    for name in ("head", "pc01"):
        done = programs_on(name).run("inv", "--list")
        assert "submit" in done.stdout, done.said
        program = programs_on(name).start("sh", "-c", "id -u; hostname; pwd; exec sleep 1000")
        program.wait_for_output(f"{project.path}\n")
        assert program.stdout == f"{pool.uid}\n{name}\n{project.path}\n"
        program.process.terminate()
        assert program.wait().returncode == -signal.SIGTERM


@hosts()
def test_a_batch_runs_as_the_user_of_the_pool(
    pool: NamespacePool, project: Project, run_program: Run
) -> None:
    project.write("script.py", "import sys\nprint(sys.argv[1:])\n")
    project.jobs({"script": "script.py", "output": "run", "sweep": {"-n": [1, 2]}})
    project.pool(pool.hosts)
    done = run_program("inv", "submit")
    assert done.returncode == 0, done.said
    assert (project.path / "run/stdout/0001.out").read_text() == "['-n', '2']\n"
    assert (project.path / "run/stdout/0001.out").stat().st_uid == pool.uid


@hosts(2)
def test_tmp_is_a_hosts_own_and_emptied_by_its_boot(pool: NamespacePool) -> None:
    for folder in ("/tmp", "/dev/shm"):
        assert ssh(pool, "pc01", f"touch {folder}/mine && ls {folder}").stdout.count("mine") == 1
        assert "mine" not in ssh(pool, "pc02", f"ls {folder}").stdout
        assert not Path(folder, "mine").exists()
    pool["pc01"].power_off()
    pool["pc01"].boot()
    assert "mine" not in ssh(pool, "pc01", "ls /tmp /dev/shm").stdout


@hosts(2)
def test_a_host_sees_its_own_processes_only(pool: NamespacePool) -> None:
    client = hold(pool, "pc01")
    assert names_on(pool, "pc01") == ["cat"]
    seen = {line.strip() for line in pool["pc01"].run("ps", "-e", "-o", "comm=").stdout.splitlines()}
    assert seen == {"sleep", "cat", "sshd", "ps"}
    assert pool["pc02"].started_there() == []
    assert len(pool.leftovers()) == 1
    assert pool.leftovers()[0].startswith("pc01: ")
    for process in pool["pc01"].started_there():
        process.send(signal.SIGKILL)
    client.communicate()
    assert client.returncode == 255


@hosts()
def test_what_is_left_on_a_host_is_told(pool: NamespacePool) -> None:
    end(hold(pool, "pc01", LASTING))
    with pytest.raises(AssertionError, match=r"pc01: \d+ \(S\) sleep 1000"):
        pool.assert_empty(deadline=0.1)
    for process in pool["pc01"].started_there():
        process.send(signal.SIGKILL)
    pool.assert_empty()


@hosts()
def test_an_orphan_that_ends_is_buried(pool: NamespacePool) -> None:
    done = ssh(pool, "pc01", "sh -c 'sleep 0.1 & echo $!'")
    assert done.stdout.strip().isdigit(), done.said
    path = f"/proc/{done.stdout.strip()}"
    wait_for(lambda: pool["pc01"].run("test", "-e", path, check=False).returncode != 0, "no zombie")


@hosts(2, clock_step=3600)
def test_monotonic_clocks_may_be_apart(pool: NamespacePool) -> None:
    code = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))"
    first, second = (float(ssh(pool, name, f"python3 -c '{code}'").stdout) for name in pool.names)
    assert second - first > 3500


@hosts(max_processes=20)
def test_processes_of_the_user_may_be_limited(pool: NamespacePool) -> None:
    assert ssh(pool, "pc01", "ulimit -u").stdout == "20\n"
    code = "import os\nn = 0\ntry:\n  while os.fork(): n += 1\n  os.pause()\nexcept OSError: print(n)"
    done = ssh(
        pool,
        "pc01",
        f"python3 -c '{code.replace('os.pause()', 'import signal; signal.pause()')}'; kill -9 -1",
    )
    assert 0 < int(done.stdout) < 20, done.said


# -- links --------------------------------------------------------------------------------------------------


@hosts(2)
def test_packets_to_a_host_that_is_cut_vanish_until_it_is_healed(pool: NamespacePool) -> None:
    client = hold(pool, "pc01")
    pool["pc01"].cut()
    assert vanishes(pool, "pc01")
    assert ssh(pool, "pc02", "hostname").stdout == "pc02\n"
    assert works(client)
    assert names_on(pool, "pc01") == ["cat"]
    pool["pc01"].heal()
    assert ssh(pool, "pc01", "hostname").stdout == "pc01\n"
    assert works(client)
    end(client)
    wait_for(lambda: len(pool["pc01"].processes()) == 1, "the end of all but sshd itself")


@hosts()
def test_a_head_may_be_cut_too(pool: NamespacePool) -> None:
    pool.heads[0].cut()
    assert vanishes(pool, "pc01")
    pool.heads[0].heal()
    assert ssh(pool, "pc01", "true").returncode == 0


# -- deaths -------------------------------------------------------------------------------------------------


@hosts(2)
def test_a_power_cut_is_silent_and_a_booted_host_is_the_same_and_knows_nothing(pool: NamespacePool) -> None:
    host = pool["pc01"]
    identity = "cat /proc/sys/kernel/random/boot_id"
    before = ssh(pool, "pc01", identity).stdout
    client = listen(pool, "pc01", "asking")
    host.power_off()
    assert not host.running
    assert host.processes() == []
    assert vanishes(pool, "pc01")
    assert works(client)
    host.boot()
    after = ssh(pool, "pc01", f"hostname; {identity}")
    assert after.stdout.startswith("pc01\n"), after.said
    assert after.stdout != f"pc01\n{before}"
    assert works(client)
    assert client.communicate("\n")[0] == "ConnectionResetError\n"
    host.power_off()
    host.power_off()  # once more does no harm, nor does close() afterwards


@hosts()
def test_a_crash_ends_everything_at_once_and_new_connections_are_refused(pool: NamespacePool) -> None:
    client = hold(pool, "pc01")
    plain = listen(pool, "pc01")
    pool["pc01"].crash()
    client.communicate()
    assert client.returncode == 255
    # Where the kernel cannot reset the connections of others, it closes them.
    assert plain.communicate()[0] in ("ConnectionResetError\n", "end\n")
    assert pool["pc01"].processes() == []
    assert "refused" in ssh(pool, "pc01", "true").stderr
    pool["pc01"].boot()
    assert ssh(pool, "pc01", "hostname").stdout == "pc01\n"


@hosts()
def test_what_runs_at_a_host_dies_with_it(
    pool: NamespacePool, programs_on: Callable[[str], Programs]
) -> None:
    for death in (pool["pc01"].crash, pool["pc01"].power_off):
        program = programs_on("pc01").start("sleep", "1000")
        wait_for(lambda: names_on(pool, "pc01") == ["sleep"], "the program")
        death()
        assert program.wait().returncode == -signal.SIGKILL
        pool["pc01"].boot()


@hosts()
def test_a_restart_of_sshd_spares_the_sessions_unless_told(pool: NamespacePool) -> None:
    host = pool["pc01"]
    client = hold(pool, "pc01", LASTING)
    host.stop_sshd()
    assert "refused" in ssh(pool, "pc01", "true").stderr
    assert works(client)
    host.start_sshd()
    assert ssh(pool, "pc01", "true").returncode == 0
    assert works(client)
    host.settings = ["PermitTTY no", "LogLevel DEBUG1"]
    host.restart_sshd(sessions=True)
    client.communicate()
    assert client.returncode == 255
    assert names_on(pool, "pc01") == ["sleep"]  # nobody has told it
    for process in host.started_there():
        process.send(signal.SIGKILL)
    assert ssh(pool, "pc01", "true").returncode == 0
    assert "debug1" in host.sshd_log.read_text()


@hosts()
def test_a_frozen_host_holds_its_connections_and_goes_on(pool: NamespacePool) -> None:
    client = hold(pool, "pc01")
    host = pool["pc01"]
    host.freeze()
    assert {process.state for process in host.processes()} == {"T"}
    assert vanishes(pool, "pc01")
    assert works(client)
    host.thaw()
    assert ssh(pool, "pc01", "hostname").stdout == "pc01\n"
    assert works(client)
    host.freeze()
    host.power_off()  # stopped processes die as well
    end(client)


# -- files --------------------------------------------------------------------------------------------------


@hosts(2)
def test_a_folder_may_be_empty_or_full_on_one_host_alone(pool: NamespacePool) -> None:
    (pool.home / "file").write_text("text")
    host = pool["pc01"]
    host.mount_over(pool.home, size="64k")
    assert ssh(pool, "pc01", "ls").stdout == ""
    assert (
        subprocess.run([*pool.prefix("pc01"), "ls", pool.home], capture_output=True, check=True).stdout == b""
    )
    done = ssh(pool, "pc01", "head -c 100000 /dev/zero >big")
    assert "No space left" in done.stderr
    assert ssh(pool, "pc02", "cat file").stdout == "text"
    host.unmount(pool.home)
    assert ssh(pool, "pc01", "ls").stdout == "file\n"
    host.mount_over(pool.home)
    host.power_off()
    host.boot()
    assert ssh(pool, "pc01", "ls").stdout == "file\n"


@hosts(home_size="2m")
def test_a_small_home_is_full_for_everybody(pool: NamespacePool) -> None:
    assert ssh(pool, "pc01", "echo text >file").returncode == 0
    assert (pool.home / "file").read_text() == "text\n"
    pool.fill_home()
    assert "No space left" in ssh(pool, "pc01", "echo text >more").stderr
    argv = [*pool.prefix(), "sh", "-c", "echo text >head"]
    done = subprocess.run(argv, cwd=pool.home, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    pool.empty_home()
    assert ssh(pool, "pc01", "echo text >more").returncode == 0


# -- the pool comes and goes --------------------------------------------------------------------------------


@needs_namespaces
def test_nothing_is_left_and_pools_do_not_meet(tmp_path: Path) -> None:
    before = traces()
    with NamespacePool(tmp_path / "a", tmp_path / "a/home", hosts=2, home_size="1m") as pool:
        with NamespacePool(tmp_path / "b", tmp_path / "b/home", hosts=1) as other:
            assert other.uid != pool.uid
            client = hold(pool, "pc01")
            assert ssh(other, "pc01", "ls ~").stdout == ""
            assert "No such file" in ssh(other, "pc01", f"ls {pool.home}").stderr
            spaces = spaces_of_pool(pool) | spaces_of_pool(other)
        assert works(client)
        assert len(mounted_in(tmp_path)) == 1
        # Five PCs, three of them hosts with processes and once more mounts of their own, and two bridges.
        assert len(spaces) >= 5 * 4 + 3 * 2 + 2
        assert in_spaces(spaces)
        assert that_see(tmp_path)
    end(client)
    wait_for(lambda: not in_spaces(spaces), "the end of the namespaces")
    assert traces() == before
    assert mounted_in(tmp_path) == []
    assert born_in(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
from namespaces import NamespacePool
folder = Path(sys.argv[1])
pool = NamespacePool(folder, folder / "home", hosts=2, home_size="1m")
pool["pc02"].freeze()
print("up", flush=True)
sys.stdin.read()
"""


@needs_namespaces
def test_a_pool_goes_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    path = str(Path(__file__).resolve().parents[1])
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "pool")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    among = everything()
    spaces = {space for process in below([run.pid], among) for space in spaces_of(process)}
    assert len(spaces) >= 3 * 4 + 2 * 2 + 1
    run.kill()
    run.communicate()
    wait_for(lambda: not in_spaces(spaces), "the end of the namespaces")
    wait_for(lambda: not mounted_in(tmp_path), "the end of the small home")


@needs_namespaces
def test_a_pool_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="NoSuchSetting"):
        NamespacePool(tmp_path, tmp_path / "home", hosts=2, settings=["NoSuchSetting yes"])
    wait_for(lambda: not that_see(tmp_path), "the end of the pool")


@needs_namespaces
def test_what_is_needed_is_seen_through_closed_folders_and_links(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "versions" / "1.2").mkdir(parents=True)
    (closed / "versions" / "1.2" / "file").write_text("text")
    (closed / "versions" / "1").symlink_to("1.2")
    (closed / "secret").write_text("")
    closed.chmod(0o700)
    way = closed / "versions" / "1" / "file"
    assert list(links_on_the_way(way)) == [closed / "versions" / "1"]
    commands = view(tmp_path / "stage", [closed / "versions" / "1.2"], [way])
    look = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c"]
    commands += [[*look, f"cat {way}; ls {closed}"]]
    script = "set -e\n" + "\n".join(shlex.join(command) for command in commands)
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    done = subprocess.run(unshare, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("textversions\n", "")
