"""Collections in BEIR layout: a folder with documents, queries, and judgements of some.

FOLDER/corpus.jsonl or corpus.jsonl.gz   {"_id": "a", "title": "...", "text": "..."}
FOLDER/queries.jsonl or queries.jsonl.gz {"_id": "q1", "text": "..."}
FOLDER/qrels/SPLIT.tsv                   query-id <TAB> corpus-id <TAB> score, after one line of headings

Rule: a file is taken whole or not at all. A CollectionError names the file and the line.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sluice.cli.console import CommandFailed
from sluice.client import Document


class CollectionError(CommandFailed):
    """A collection that cannot be used; the message says which file and line, what was expected and what was found."""


Qrels = dict[str, dict[str, int]]
"""Grade of each judged document, by query and document id."""


def documents(folder: Path) -> dict[str, Document]:
    """The documents by id, in the order of the file; some collections have a few without title and text."""
    found: dict[str, Document] = {}
    for where, record in _records(_file(folder, "corpus.jsonl")):
        document_id = _id(record, where)
        if document_id in found:
            raise CollectionError(f"{where}: expected each _id once, got {document_id!r} again")
        found[document_id] = Document(document_id, _text(record, "text", where), _text(record, "title", where))
    if not found:
        raise CollectionError(f"{folder}: expected documents in corpus.jsonl, found none")
    return found


def queries(folder: Path) -> dict[str, str]:
    """The queries by id, in the order of the file."""
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
    """The judgements of a split, e.g. `test`."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise CollectionError(f"{path}: expected a file of judgements, found none; there is {have}")
    found: Qrels = {}
    for where, line in _lines(path):
        if where.endswith(":1"):
            continue
        parts = line.split("\t")
        if len(parts) != 3:
            raise CollectionError(f"{where}: expected query, document and score between tabs, got {line!r:.80}")
        try:
            found.setdefault(parts[0], {})[parts[1]] = int(parts[2])
        except ValueError:
            raise CollectionError(f"{where}: expected a whole number as score, got {parts[2]!r:.80}") from None
    if not found:
        raise CollectionError(f"{path}: expected judgements, found none")
    return found


def passage(document: Document) -> str:
    """What models read of a document: its title, when it has one, and its text below."""
    return f"{document.title}\n{document.text}" if document.title else document.text


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise CollectionError(f"{folder}: expected {name} or {name}.gz, found neither")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """`FILE:LINE` and the line, for each that is not blank."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CollectionError(f"{path}: expected UTF-8 text: {error}") from error


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in _lines(path):
        try:
            record = json.loads(line)
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
