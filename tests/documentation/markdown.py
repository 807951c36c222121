"""Code blocks of Markdown files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:^<!-- (?P<marker>[^\n]*?) -->\n)?^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$",
                   re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its text, language, the comment on the line above it ("" for none), and its document and line."""

    text: str
    language: str
    marker: str
    document: Path
    line: int

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    source = document.read_text(encoding="utf-8")
    return [Block(match["text"], match["language"], match["marker"] or "", document,
                  source[: match.start("text")].count("\n") + 1) for match in BLOCK.finditer(source)]


def commands_of(shell: str) -> list[str]:
    """Lines of a shell block with their continuations joined; comments and empty lines are left out."""
    joined = shell.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]
