"""What the hand-written documents say exists: commands, options, make targets, files, links, states."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from blockferry.base.config import Config
from blockferry.cli import main
from blockferry.hosts.defects import Case, Versions, starts_suspended
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.precheck.method import race_possible
from blockferry.storage_move.precheck.vm_checks import OLDEST_LIBVIRT, OLDEST_QEMU
from lab.cli import main as lab_main

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "lab" / "README.md"])
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
every_document = pytest.mark.parametrize("name", NAMES)
OTHERS_OPTIONS = ("lab/README.md", "docs/performance.md", "docs/measured.md")
"""Documents that speak of other programs' options."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def typed(name: str) -> list[str]:
    """What a document shows as typed: its code spans, and the lines of its code blocks."""
    text = text_of(name)
    blocks = [line.strip() for line in re.findall(r"^(?: {4}|\t)(.+)$", text, re.MULTILINE)]
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        blocks += [line.strip() for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [re.sub(r"^(root@\S+ )?[#$] ", "", one) for one in (*blocks, *spans)]


def words_after(program: str, name: str) -> list[list[str]]:
    """The words of each command line of a program in a document, comments left out."""
    found = []
    for line in typed(name):
        match = re.match(rf"(?:\S+=\S+ )*(?:\.venv/bin/)?{program} (.+)", line)
        if match:
            found.append(shlex.split(match.group(1), comments=True))
    return found


def options_of(command: click.Command) -> set[str]:
    return {one for parameter in command.params for one in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))


def test_the_readme_begins_with_the_two_commands() -> None:
    assert [words[0] for words in words_after("make", "README.md")][:2] == ["demo", "test"]
    assert text_of("README.md").index("make test") < 250


def test_ci_runs_what_the_readme_says() -> None:
    assert "\nmake test " in text_of(".ci/run")


@every_document
def test_make_targets_exist(name: str) -> None:
    named = {words[0] for words in words_after("make", name)}
    assert named <= targets()


def test_make_help_lists_every_target() -> None:
    quiet = ["make", "--no-print-directory", "help"]  # under `make test` it would say which directory it enters
    listed = subprocess.run(quiet, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets()


@every_document
def test_commands_and_their_options_exist(name: str) -> None:
    top = options_of(main.root)
    for words in words_after("blockferry", name):
        before = words[0]
        if before.startswith("-") or {"COMMAND", "[COMMAND]"} & set(words):
            continue
        assert before in main.root.load_all(), f"{name}: blockferry {' '.join(words)}"
        command = main.root.load_all()[before]
        alone = (
            isinstance(command, click.Group) and command.invoke_without_command and words[1:2] and words[1][0] == "-"
        )
        if isinstance(command, click.Group) and len(words) > 1 and not alone:
            assert words[1] in command.commands, f"{name}: blockferry {' '.join(words)}"
            command = command.commands[words[1]]
        known = options_of(command) | top
        used = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
        assert used <= known, f"{name}: blockferry {' '.join(words)}"


@pytest.mark.parametrize("name", [one for one in NAMES if one not in OTHERS_OPTIONS])
def test_an_option_by_itself_is_one_of_some_command(name: str) -> None:
    groups = [command for command in main.root.load_all().values() if isinstance(command, click.Group)]
    commands = [*main.root.load_all().values(), *(command for group in groups for command in group.commands.values())]
    known = options_of(main.root).union(*map(options_of, commands))
    for line in typed(name):
        if re.match(r"--[a-z]", line):
            assert line.split()[0].partition("=")[0] in known, f"{name}: {line}"


@every_document
def test_commands_of_the_lab_exist(name: str) -> None:
    for words in words_after("python -m lab", name):
        named = [word for word in words if word in lab_main.commands]
        assert named or words == ["..."], f"{name}: python -m lab {' '.join(words)}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if re.match(r"[a-z]+:", target):
            continue
        where, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / where).resolve() if where else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{name}: {target}"


@every_document
def test_files_that_are_named_exist(name: str) -> None:
    pattern = r"(?<![\w/.-])((?:src|lab|tests|tools|docs|bench)/[\w./-]*\w\.(?:py|md|c|h|sh|txt|toml))"
    for one in re.findall(pattern, text_of(name)):
        assert (ROOT / one).exists() or (ROOT / name).parent.joinpath(one).exists(), f"{name}: {one}"


def test_the_architecture_names_files_that_exist() -> None:
    named = re.findall(r"[\w./-]+/[\w.-]+\.(?:py|txt)\b", text_of("ARCHITECTURE.md"))
    assert len(named) > 10
    places = (ROOT, ROOT / "src" / "blockferry")
    assert [one for one in named if not any((place / one).exists() for place in places)] == []


def test_every_layer_is_in_the_architecture() -> None:
    rooms = {path.name for path in (ROOT / "src" / "blockferry").iterdir() if (path / "__init__.py").exists()}
    head = text_of("ARCHITECTURE.md").split("## Processes")[0]
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", head)] == []


def test_every_state_is_described() -> None:
    cells = set(re.findall(r"^\| `?([\w-]+)`? \|", text_of("docs/states.md"), re.MULTILINE))
    assert {stage.value for stage in Stage} <= cells
    assert {outcome.value for outcome in Outcome} | {"running", "interrupted", "parked"} <= cells


def test_the_floors_are_the_true_ones() -> None:
    libvirt, qemu = (".".join(map(str, floor[:2])) for floor in (OLDEST_LIBVIRT, OLDEST_QEMU))
    assert f"libvirt {libvirt} and QEMU {qemu}" in text_of("README.md")


def test_the_start_race_is_described_as_it_is_decided() -> None:
    text = text_of("docs/design/start-race.md")
    assert hasattr(Config(), "suspended_start")
    assert "suspended_start = true" in text
    assert "from QEMU 8.0 on" in text
    for mended in ("10.0.9", "10.2.2", "11.0.0"):
        assert f"| {mended} | noted" in text

    def suspended(qemu: tuple[int, int, int], format: str, shallow: bool = False, iothread: bool = False) -> bool:
        case = Case(live=True, synchronous=not shallow, shallow=shallow, source_format=format, iothread=iothread)
        return starts_suspended(Versions((9, 0, 0), qemu), case)

    assert not suspended((7, 2, 22), "qcow2")
    assert not suspended((7, 2, 22), "qcow2", shallow=True)
    assert race_possible((10, 0, 0), "qcow2", shallow=False)
    assert not race_possible((7, 2, 22), "qcow2", shallow=True)
    assert suspended((7, 2, 22), "raw", iothread=True)
    assert suspended((7, 1, 0), "raw")
    assert suspended((8, 0, 0), "qcow2")
    assert suspended((10, 2, 1), "raw", shallow=True)
    assert not suspended((10, 0, 0), "raw")
    assert suspended((10, 0, 8), "qcow2")
    for release in ((10, 0, 9), (10, 0, 13), (10, 2, 2), (11, 0, 0)):
        assert not suspended(release, "qcow2")
        assert not race_possible(release, "qcow2", shallow=True)


def test_one_list_of_packages_serves_all() -> None:
    lines = [line for line in text_of("tools/packages.txt").splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines))
    assert "packages.txt" in text_of("tools/setup")
