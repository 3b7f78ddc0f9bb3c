"""What a test does to a host that is reached by ssh."""

from __future__ import annotations

from lab import Host
from lab.process import kill_and_wait


def kill_the_helper(far: Host) -> None:
    """With SIGKILL, on the host; its process and what it has forked. The guard on the host stays."""

    def is_helper(argv: list[str]) -> bool:
        return any("blockferry-helper" in word for word in argv) and not any("guard_calls" in word for word in argv)

    found = far.find_process(is_helper)
    assert found is not None, "no helper on the host"
    while found is not None:
        kill_and_wait(found)
        found = far.find_process(is_helper)


def kill_the_sessions(far: Host) -> None:
    """Every ssh session on the host; sshd itself stays."""

    def is_session(argv: list[str]) -> bool:
        return argv[0].startswith("sshd: ") and "[listener]" not in " ".join(argv)

    found = far.find_process(is_session)
    assert found is not None, "no ssh session on the host"
    while found is not None:
        kill_and_wait(found)
        found = far.find_process(is_session)
