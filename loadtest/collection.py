"""Collections in BEIR layout: a folder with documents, queries, and relevance judgments.

FOLDER/corpus.jsonl or corpus.jsonl.gz   {"_id": "a", "title": "...", "text": "..."}
FOLDER/queries.jsonl or queries.jsonl.gz {"_id": "q1", "text": "..."}
FOLDER/qrels/SPLIT.tsv                   query-id <TAB> corpus-id <TAB> score, after one header line

Rule: a wrong query or judgment rejects the whole file; a CollectionError names the file and the line. A line of the
corpus that is not a document is rejected alone, as in `sluice index`.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.cli.console import CommandFailed
from sluice.cli.refusals import Refusal
from sluice.client import Document, jsonl


class CollectionError(CommandFailed):
    """A collection that cannot be used. The message names the file and line, what was expected and what was found."""


Qrels = dict[str, dict[str, int]]
"""Grade of each judged document, by query id and document id."""


@dataclass(frozen=True)
class Corpus:
    """The documents of a collection."""

    documents: dict[str, Document]
    """By id, in the order of the file, without metadata. Documents may have neither title nor text."""
    refused: list[Refusal]
    """Lines that are not documents."""


def corpus(folder: Path) -> Corpus:
    """Read the documents and the lines that are not documents. Raises CollectionError if there is no document."""
    found: dict[str, Document] = {}
    refused: list[Refusal] = []
    path = _file(folder, "corpus.jsonl")
    for number, line in _lines(path, errors="surrogateescape"):
        try:
            document = _document(line)
            if document.document_id in found:
                raise ValueError(f"expected each _id once, got {document.document_id!r:.80} again; the first is used")
        except ValueError as error:
            refused.append(Refusal("INVALID_REQUEST", str(error), line=number))
        else:
            found[document.document_id] = document
    if not found:
        why = f"; line {refused[0].line}: {refused[0].message}" if refused else ""
        raise CollectionError(f"{path}: expected documents, found none{why}")
    return Corpus(found, refused)


def queries(folder: Path) -> dict[str, str]:
    """Return the queries by id, in the order of the file."""
    found: dict[str, str] = {}
    for where, record in _records(_file(folder, "queries.jsonl")):
        text = _text(record, "text", where)
        if not text.strip():
            raise CollectionError(f"{where}: expected a query, got an empty text")
        found[_id(record, where)] = text
    if not found:
        raise CollectionError(f"{folder}: expected queries in queries.jsonl, found none")
    return found


def qrels(folder: Path, split: str) -> Qrels:
    """Return the judgments of a split, for example `test`."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise CollectionError(f"{path}: expected a file of judgments, found none; there is {have}")
    found: Qrels = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        if number == 1:
            continue
        parts = line.split("\t")
        if len(parts) != 3:
            raise CollectionError(f"{where}: expected query, document and score between tabs, got {line!r:.80}")
        try:
            found.setdefault(parts[0], {})[parts[1]] = int(parts[2])
        except ValueError:
            raise CollectionError(f"{where}: expected a whole number as score, got {parts[2]!r:.80}") from None
    if not found:
        raise CollectionError(f"{path}: expected judgments, found none")
    return found


def passage(document: Document) -> str:
    """Return the text of a document that models read: its title and, below it, its text, without blank parts."""
    return "\n".join(part for part in (document.title, document.text) if part.strip())


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise CollectionError(f"{folder}: expected {name} or {name}.gz, found neither")


def _document(line: str) -> Document:
    """Return the document of a line, without its metadata. Raises ValueError."""
    record = jsonl.parsed(line)
    return jsonl.document({**record, "metadata": None} if isinstance(record, dict) else record, frozenset())


def _lines(path: Path, *, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not blank.

    errors  what to do with bytes that are not UTF-8
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors=errors) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CollectionError(f"{path}: expected UTF-8 text: {error}") from error


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            record = jsonl.parsed(line)
        except ValueError as error:
            raise CollectionError(f"{where}: expected JSON: {error}") from None
        if not isinstance(record, dict):
            raise CollectionError(f"{where}: expected an object, got {type(record).__name__}")
        yield where, record


def _id(record: dict[str, Any], where: str) -> str:
    value = record.get("_id")
    if not isinstance(value, str) or not value:
        raise CollectionError(f'{where}: expected "_id" to be a text, got {value!r:.80}')
    return value


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name, "")
    if not isinstance(value, str):
        raise CollectionError(f'{where}: expected "{name}" to be a text, got {value!r:.80}')
    return value
