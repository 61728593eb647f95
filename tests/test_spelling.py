"""The words of the repository: American spelling, and no word that only its authors would understand."""

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.processes import ROOT

BRITISH: Final = re.compile(
    r"[a-z]*(?:"
    r"(?:normal|token|serial|quant|synchron|optim|recogn|initial|summar|organ|util|minim|maxim|prior|general)is(?:e|ing|ation)"
    r"|catalogue|colour|behaviour|favour|neighbour|honour|judgement|licence|defence|artefact|analys(?:e|ing)"
    r"|centre|grey|programme|whilst|labell|modell|travell"
    r")[a-z]*"
)
# Published names and file formats keep their spelling: the pipeline key and proto enum, and a field of the manifest.
PUBLISHED: Final = {"normalisation", "normalisations", "scorenormalisation", "licence"}
PRIVATE: Final = re.compile(
    r"\b(?:whoever|eldest|gives? way|gave way|it is worth its|for those who|what is told|nobody tells)\b", re.IGNORECASE
)
# History keeps its words. Lists and generated files are not prose. This file has the words as patterns.
EXEMPT: Final = {
    "CHANGELOG.md",
    "LICENSE",
    "constraints.txt",
    "tests/contract/published.json",
    "tests/test_spelling.py",
}
TEXT: Final = {".py", ".md", ".proto", ".yaml", ".yml", ".toml", ".html", ".js", ".css", ".json", ""}


def files() -> list[Path]:
    """Return the tracked text files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [
        name for name in listed.split("\0") if name and name not in EXEMPT and not name.endswith(("_pb2.py", ".pyi"))
    ]
    return [path for name in names if (path := ROOT / name).is_file() and path.suffix in TEXT]


def british(text: str) -> Iterator[str]:
    """Yield the words and parts of identifiers with British spelling."""
    for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text):
        lowered = word.lower()
        if BRITISH.fullmatch(lowered) and lowered not in PUBLISHED:
            yield word


@pytest.mark.parametrize("word", ["normalise", "tokenised", "Catalogue", "colour", "neighbours", "judgements"])
def test_british_words_are_found_in_prose_and_in_identifiers(word: str) -> None:
    assert list(british(f"a {word} here")) == [word]
    assert list(british(f"self._{word.lower()}_of")) == [word.lower()]


@pytest.mark.parametrize(
    "word", ["normalize", "normalisation", "SCORE_NORMALISATION_MIN_MAX", "cancelled", "analysis", "licence"]
)
def test_american_and_published_words_are_not(word: str) -> None:
    assert list(british(word)) == []


@pytest.mark.parametrize("find", [british, PRIVATE.findall], ids=["british", "private"])
def test_the_repository_has_none(find: Callable[[str], Iterable[str]]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for word in find(line)
    ]
    assert not found, "\n".join(found)
