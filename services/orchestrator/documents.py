"""Documents on their way into a collection: what is checked, hashed and read by models.

Rule: pure; no calls, no clock.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest


@dataclass(frozen=True)
class DocumentLimits:
    """What one document may be, in bytes of UTF-8."""

    max_id_bytes: int = 512
    max_text_bytes: int = 65_536
    """Title and text together, as the model reads them."""
    max_document_bytes: int = 262_144
    """All of it as a message, metadata included."""
    reserved: tuple[str, ...] = ()
    """Names of metadata that it must not have."""


def text_of(document: Document) -> str:
    """Return what models read of a document: its title and, below it, its text; only one of them if one is blank."""
    return "\n".join(part for part in (document.title, document.text) if part.strip())


def problem(document: Document, limits: DocumentLimits) -> str | None:
    """Return what is wrong with a document, expected and given; None when nothing is."""
    return next(_problems(document, limits), None)


def _problems(document: Document, limits: DocumentLimits) -> Iterator[str]:
    id_ = document.document_id
    if not id_:
        yield f"document_id: expected 1 to {limits.max_id_bytes} bytes, got none"
    if "\0" in id_:
        yield f"document_id: expected an id without NUL characters, got one at {id_.index(chr(0))}"
    if taken := [name for name in limits.reserved if name in document.metadata]:
        yield f"metadata.{taken[0]}: expected none, because every chunk has one of its own"
    text = text_of(document)
    if not text:
        given = "only white space" if document.title or document.text else "neither"
        yield f"text: expected a title or a text, got {given}"
    sizes = (
        ("document_id", "", len(id_.encode()), limits.max_id_bytes),
        ("text", " with the title", len(text.encode()), limits.max_text_bytes),
        ("document", "", document.ByteSize(), limits.max_document_bytes),
    )
    for what, with_title, size, most in sizes:
        if size > most:
            yield f"{what}: expected at most {most:,} bytes{with_title}, got {size:,}"


def content_hash(document: Document, digests: Iterable[str]) -> str:
    """SHA-256 in hex of all that a stored document is made from: its content, and the models of its vectors."""
    whole = hashlib.sha256("\n".join(digests).encode() + b"\n")
    whole.update(document.SerializeToString(deterministic=True))
    return whole.hexdigest()


def refused(error: InvalidRequest, field: str, count: int) -> Mapping[int, str]:
    """Why each document was refused, by position, from violations such as `texts[3]: ...`; all when none is named."""
    named: dict[int, str] = {}
    for violation in error.violations:
        match = re.match(rf"{field}\[(\d+)\]\.?(.*)", violation.field)
        if match and int(match[1]) < count:
            what = f"{match[2]}: {violation.description}" if match[2] else violation.description
            named.setdefault(int(match[1]), what)
    return named or dict.fromkeys(range(count), error.message)
