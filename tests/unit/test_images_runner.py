"""Programs on the host: their words, their end, and that nothing in an argument is taken for shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockferry.base.errors import HostCommandFailed, HostUnreachable, UsageError
from blockferry.hosts.helper import files, references
from blockferry.hosts.runner import LocalRunner, Runner, SshRunner, runner_for

# Does what ssh does with its words: options off, host off, the rest to the user's shell on the other side.
FAKE_SSH = """\
#!/bin/sh
while :; do case "$1" in
  -o|-l|-p|-i) echo "$2" >>"$SSH_LOG"; shift 2;;
  -O) exit 0;;
  -fN) master=1; shift;;
  --) shift; break;;
  *) exit 99;;
esac; done
host=$1; shift
[ "$host" = unreachable ] && { echo "ssh: connect to host unreachable port 22: No route to host" >&2; exit 255; }
[ -n "$master" ] && exit 0
exec sh -c "$*"
"""


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("bin")
    program = directory / "ssh"
    program.write_text(FAKE_SSH)
    program.chmod(0o755)
    os.environ["SSH_LOG"] = str(directory / "log")
    yield program
    del os.environ["SSH_LOG"]


@pytest.fixture(params=["local", "ssh"])
def runner(request: pytest.FixtureRequest, ssh: Path) -> Iterator[Runner]:
    if request.param == "local":
        yield LocalRunner()
        return
    remote = SshRunner("kvm2", "root", 2222, program=str(ssh))
    yield remote
    remote.close()


def test_output_and_status(runner: Runner) -> None:
    done = runner.run(["sh", "-c", 'echo out; echo err >&2; cat; exit "$1"', "sh", "3"], check=False)
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", "err\n")
    assert runner.run(["cat"], stdin=b"\0given\n").stdout == b"\0given\n"
    assert runner.run(["printenv", "LC_ALL"]).text == "C.UTF-8\n"


def test_failures_use_the_programs_own_words(runner: Runner) -> None:
    with pytest.raises(HostCommandFailed) as failed:
        runner.run(["cat", "/no such file"])
    assert failed.value.status == 1
    assert "No such file or directory" in failed.value.sentence
    assert failed.value.command == "cat '/no such file'"
    with pytest.raises(HostCommandFailed) as failed:
        runner.run(["no-such-program"])
    assert failed.value.status == 127


def test_too_slow_is_stopped(runner: Runner) -> None:
    began = time.monotonic()
    with pytest.raises(HostCommandFailed, match=r"did not end within 0\.3 s"):
        runner.run(["sleep", "60"], timeout_s=0.3)
    assert time.monotonic() - began < 5


def test_thousands_of_paths_are_looked_at(runner: Runner, tmp_path: Path) -> None:
    directory = tmp_path / ("a directory's long name, " * 6)
    directory.mkdir()
    names = [str(directory / f"disk {number:04}.qcow2") for number in range(2500)]
    Path(names[7]).touch()
    Path(names[-1]).touch()
    found = files.stat_many(runner, names)
    assert list(found) == names
    assert [name for name, one in found.items() if one is not None] == [names[7], names[-1]]
    assert [name for name, one in references.look(runner, names).paths.items() if one.there] == [names[7], names[-1]]


def test_255_of_a_program_is_not_taken_for_a_lost_connection(runner: Runner) -> None:
    assert runner.run(["sh", "-c", "exit 255"], check=False).status == 254


def test_process_is_read_and_ended(runner: Runner, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = 'echo $$ >"$1"; echo one; echo two >&2; exec sleep 60'
    with runner.start(["sh", "-c", script, "sh", str(mark)]) as process:
        assert process.read(5) == b"one\n"
        assert process.read(0.05) is None
        assert process.poll() is None
        pid = int(mark.read_text())
        process.terminate()
        assert process.poll() == 128 + signal.SIGTERM
        assert process.stderr == "two\n"
    assert not Path(f"/proc/{pid}").exists()
    with runner.start(["printf", "a\nb\nc"]) as process:
        assert list(process.lines()) == ["a", "b", "c"]


def test_children_end_when_we_are_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = (
        "import sys; from blockferry.hosts.runner import LocalRunner\n"
        "LocalRunner().run(['sh', '-c', 'echo $$ >\"$1\"; exec sleep 60', 'sh', sys.argv[1]])"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(mark)]) as parent:
        child = int(_wait_for_text(mark))
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


def _wait_for_text(path: Path) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS | st.sampled_from(["-n", "--", "$(id)", "a'b\"c", "a\nb", " ", "~", "*", "\\"])))
def test_no_word_is_taken_for_shell(ssh: Path, words: list[str]) -> None:
    remote = SshRunner("kvm2", program=str(ssh))
    try:
        output = remote.run(["printf", r"%s\0", *words] if words else ["true"]).text
        assert output.split("\0")[:-1] == words
        if words:
            output = remote.run(["printf", r"%s\0", *words], stdin=b"").text
            assert output.split("\0")[:-1] == words
    finally:
        remote.close()


def test_ssh_says_who_cannot_be_reached(ssh: Path) -> None:
    remote = SshRunner("unreachable", program=str(ssh))
    with pytest.raises(HostUnreachable, match="No route to host"):
        remote.run(["true"])
    remote.close()


def test_ssh_leaves_no_directory_behind(ssh: Path) -> None:
    remote = SshRunner("kvm2", program=str(ssh))
    directory = Path(remote._directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    remote.close()
    assert not directory.exists()


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/run/x"])
def test_local_uris(uri: str) -> None:
    assert isinstance(runner_for(uri), LocalRunner)


def test_ssh_uris(ssh: Path) -> None:
    uri = f"qemu+ssh://ad%40min@[fe80::1]:2222/system?keyfile=/k%20ey&no_verify=1&command={ssh}"
    remote = runner_for(uri)
    assert isinstance(remote, SshRunner)
    Path(os.environ["SSH_LOG"]).unlink(missing_ok=True)
    remote.run(["true"])
    used = Path(os.environ["SSH_LOG"]).read_text().splitlines()
    assert {"BatchMode=yes", "StrictHostKeyChecking=no", "ad@min", "2222", "/k ey"} <= set(used)
    assert remote.uri == "qemu+ssh://ad@min@fe80::1:2222/system"
    remote.close()


@pytest.mark.parametrize(
    "uri", ["qemu+tls://h/system", "qemu+tcp://h/system", "qemu://h/system", "xen:///", "", "qemu+ssh:///system"]
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        runner_for(uri)
