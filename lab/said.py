"""How a command with --json ended, and the documents that it printed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended. `status`: negative and 128 + n by signal n; None: it did not end in time and was killed."""

    words: tuple[str, ...]
    status: int | None
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.status in (-9, 137)

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Each line of the output that is a JSON object; a line that a kill cut off is left out."""
        found = []
        for line in self.out.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict):
                    found.append(document)
        return found

    @property
    def codes(self) -> tuple[str, ...]:
        """The reasons of a refusal, or the code of the error."""
        for document in reversed(self.documents):
            if document.get("kind") == "error":
                facts = document.get("facts") or {}
                return tuple(facts.get("codes") or [str(document.get("code"))])
        return ()

    @property
    def message(self) -> str:
        """The last error's sentence, else the end of what was written to standard error."""
        for document in reversed(self.documents):
            if document.get("kind") == "error":
                return str(document.get("message"))
        return self.err.strip()[-400:]

    @property
    def sources(self) -> tuple[str, ...]:
        """The report's sentences about the old files."""
        for document in reversed(self.documents):
            if document.get("kind") == "report":
                report = document["move"].get("report") or {}
                return tuple(report.get("sources") or ())
        return ()

    def __str__(self) -> str:
        """One line: the command, its status, its errors if it said any."""
        errors = [str(one.get("message")) for one in self.documents if one.get("kind") == "error"]
        said = "; ".join(errors) or self.err.strip().replace("\n", " | ")[-300:]
        return f"{' '.join(self.words)} -> {'no end' if self.status is None else self.status}" + (
            f" ({said})" if said else ""
        )
