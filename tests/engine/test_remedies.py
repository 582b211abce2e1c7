"""Each command line that a message or a page names can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from engine.cli.main import make_parser

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("engine", "sources", "sinks", "docs", "config")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".toml")
]
#: In backquotes, with the configuration's placeholder or the name of a file.
LINE = re.compile(r"`(tailrace [a-z-]+ (?:CONFIG|[\w-]+\.toml)[^`\n]*)`")
BLOCK = re.compile(
    r"^(?:\$ )?(tailrace [a-z-]+ (?:CONFIG|[\w-]+\.toml)[^\n#]*?)(?: {2,}.*)?$", re.M
)


def named() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        lines = LINE.findall(text) + (BLOCK.findall(text) if path.suffix == ".md" else [])
        found += [(line, str(path.relative_to(ROOT))) for line in dict.fromkeys(lines)]
    return found


@pytest.mark.parametrize("line", sorted({line for line, _ in named()}))
def test_the_command_line_is_understood(line: str) -> None:
    # Only those with a placeholder or the name of a file are whole.
    line = re.sub(r"\{\w+\}", "1", line).replace("…", "")
    words = [word for word in shlex.split(line)[1:] if not word.startswith("[")]
    options = make_parser().parse_args(words)
    assert options.run is not None


def test_there_are_command_lines() -> None:
    lines = {line for line, _ in named()}
    assert "tailrace backfill CONFIG TABLE" in lines
    assert "tailrace backfill CONFIG --all" in lines
