"""README, documentation and notebooks as tests read them: code blocks and commands."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

NOT_RUN = "# not run here: "
# In the order in which the commands build on each other.
RUN_ORDER = (
    *("getting_started", "your_data", "your_weights", "rendering"),
    *("systems/inter_prototype", "systems/usynthface", "systems/dr_gan"),
    *("systems/landmarks", "systems/self_augmentation"),
    *("evaluation", "metrics", "results", "extending"),
)


class Block(NamedTuple):
    """A fenced or indented block of a document."""

    document: str
    language: str
    text: str

    @property
    def reason(self) -> str:
        """The reason why no test runs the block; '' if one does."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else ""

    def commands(self) -> list[list[str]]:
        """Returns the words of every `fr-jax` command."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = [line.strip() for line in joined.splitlines()]
        return [
            shlex.split(line, comments=True)[1:]
            for line in lines
            if re.match(r"(\S+/)?fr-jax ", line)
        ]


def documents() -> list[Path]:
    """Returns README, CONTRIBUTING, pages of docs/ (not generated ones), notebooks."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    pages = [page for page in pages if not {"generated", "build"} & {*page.parts}]
    notebooks = sorted((ROOT / "colabs").glob("*.ipynb"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages, *notebooks]


def markdown(path: Path) -> str:
    """Returns the text of a page, or of the Markdown cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return "\n\n".join(texts) + "\n"


def blocks(path: Path) -> Iterator[Block]:
    """Yields the fenced blocks of a page, and the indented ones of others as `sh`."""
    name = path.relative_to(ROOT).as_posix()
    text = markdown(path)
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        yield Block(name, language, body)
    if name.startswith(("docs/", "colabs/")):
        return
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for body in re.findall(r"(?:^    .*\n)+", prose, re.M):
        yield Block(name, "sh", re.sub(r"^    ", "", body, flags=re.M))
