"""Reading and damaging single blocks of an image of any format, by QEMU's own tools."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


def peek(path: Path | str, image_format: str, offset: int, length: int = 4096) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".raw") as out:
        words = ["qemu-img", "dd", "-U", "-f", image_format, "-O", "raw", "bs=4096", f"skip={offset // 4096}"]
        subprocess.run([*words, f"count={(offset + length) // 4096}", f"if={path}", f"of={out.name}"], check=True)
        return Path(out.name).read_bytes()[:length]


def poke(path: Path | str, image_format: str, offset: int, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".raw") as source:
        source.write(data)
        source.flush()
        command = f"write -s {source.name} {offset} {len(data)}"
        subprocess.run(["qemu-io", "-f", image_format, "-c", command, str(path)], check=True, capture_output=True)
