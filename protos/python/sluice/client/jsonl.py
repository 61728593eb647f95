"""Documents from JSON lines, in the format of Sluice or of the corpus files of BEIR.

{"id": "a", "title": "…", "text": "…", "metadata": {"year": 2024}}
{"_id": "a", "title": "…", "text": "…", "metadata": {}}
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from sluice.client.documents import Document


class Unreadable(NamedTuple):
    """A line that is not a document: its number, from 1, and the reason."""

    line: int
    problem: str


def documents(lines: Iterable[str], *, timestamps: frozenset[str] = frozenset()) -> Iterator[Document | Unreadable]:
    """Yield a document, or the reason why it is none, for each line that is not blank.

    timestamps  names of metadata that are timestamps, in ISO 8601
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield document(parsed(line), timestamps)
        except ValueError as error:
            yield Unreadable(number, str(error))


def parsed(line: str | bytes) -> object:
    """Return the value of a line of JSON. Raises ValueError, also for JSON that is nested too deeply."""
    try:
        value: object = json.loads(line)
    except RecursionError:
        raise ValueError("expected JSON of a document, got JSON that is nested too deeply") from None
    return value


def document(record: object, timestamps: frozenset[str]) -> Document:
    """Return the document in a JSON value. Raises ValueError with what was expected."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    document_id = record.get("id", record.get("_id"))
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        document_id = str(document_id)
    if not isinstance(document_id, str):
        raise ValueError('expected an "id" or "_id" that is a text or an integer')
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError(f'expected "metadata" to be an object, got {type(metadata).__name__}')
    moments = {name: _moment(name, value) for name, value in metadata.items() if name in timestamps}
    return Document(document_id, _text(record, "text"), _text(record, "title"), {**metadata, **moments})


def _text(record: Mapping[str, object], name: str) -> str:
    value = record.get(name) or ""
    if not isinstance(value, str):
        raise ValueError(f'expected "{name}" to be a text, got {type(value).__name__}')
    return value


def _moment(name: str, value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(
            f'expected "{name}" to be a time such as 2024-05-01T12:00:00Z, got {str(value)!r:.80}'
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
