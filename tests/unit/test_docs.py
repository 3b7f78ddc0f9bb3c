"""What the documents say must be so: links lead somewhere, tables name real files, commands and targets exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blockferry.cli import main as cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "lab/README.md"])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_architecture_names_real_files() -> None:
    rows = [line for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines() if line.startswith("| ")]
    paths = [path for row in rows[1:] for path in re.findall(r"(?:src|lab)/[\w/]+\.py", row)]
    assert len(paths) > 30
    for path in paths:
        assert (ROOT / path).is_file(), f"ARCHITECTURE.md names {path}"


def test_commands_and_targets_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^    make (\w+)", readme, re.M))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    for target in targets:
        assert f"\n{target}: " in makefile
    known = set(cli.root.commands)
    used = set(re.findall(r"`blockferry (\w+)", readme)) | set(re.findall(r"^    # blockferry (\w+)", readme, re.M))
    assert used
    assert used <= known, f"the README uses {used - known}"
