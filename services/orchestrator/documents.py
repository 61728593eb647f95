"""Documents: the text that models read, their limits, and the hash that shows whether a stored document is unchanged.

Rule: no I/O and no clock.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest


@dataclass(frozen=True)
class DocumentLimits:
    """Limits of one document, in bytes of UTF-8."""

    max_id_bytes: int = 512
    max_text_bytes: int = 65_536
    """Title and text together, as the model reads them."""
    max_document_bytes: int = 262_144
    """The whole message, including metadata."""
    reserved: tuple[str, ...] = ()
    """Names that metadata must not have."""


def text_of(document: Document) -> str:
    """Return the text that models read: the title and, on a new line, the text; only one of them if one is blank."""
    return "\n".join(part for part in (document.title, document.text) if part.strip())


def find_problem(document: Document, limits: DocumentLimits) -> str | None:
    """Return the first problem of a document, with the expected and the given value; None if it is valid."""
    return next(_problems(document, limits), None)


def _problems(document: Document, limits: DocumentLimits) -> Iterator[str]:
    id_ = document.document_id
    if not id_:
        yield f"document_id: expected 1 to {limits.max_id_bytes} bytes, got none"
    if "\0" in id_:
        yield f"document_id: expected an id without NUL characters, got one at {id_.index(chr(0))}"
    if reserved := [name for name in limits.reserved if name in document.metadata]:
        yield f"metadata.{reserved[0]}: expected none, because every chunk has one of its own"
    text = text_of(document)
    if not text:
        given = "only white space" if document.title or document.text else "neither"
        yield f"text: expected a title or a text, got {given}"
    sizes = (
        ("document_id", "", len(id_.encode()), limits.max_id_bytes),
        ("text", " with the title", len(text.encode()), limits.max_text_bytes),
        ("document", "", document.ByteSize(), limits.max_document_bytes),
    )
    for field, with_title, size, most in sizes:
        if size > most:
            yield f"{field}: expected at most {most:,} bytes{with_title}, got {size:,}"


def content_hash(document: Document, fingerprint: Iterable[str]) -> str:
    """Return the SHA-256, in hex, of a document's content and of the models and settings that it is stored with."""
    whole = hashlib.sha256("\n".join(fingerprint).encode() + b"\n")
    whole.update(document.SerializeToString(deterministic=True))
    return whole.hexdigest()


def rejections(error: InvalidRequest, field: str, count: int) -> Mapping[int, str]:
    """Return why documents were rejected, by position, from violations such as `texts[3]: ...`.

    Empty if no violation names one of several documents: then they may be valid, but not together.
    """
    named: dict[int, str] = {}
    for violation in error.violations:
        match = re.match(rf"{field}\[(\d+)\]\.?(.*)", violation.field)
        if match and int(match[1]) < count:
            problem = f"{match[2]}: {violation.description}" if match[2] else violation.description
            named.setdefault(int(match[1]), problem)
    return named or ({0: error.message} if count == 1 else {})
