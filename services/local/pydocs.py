"""The corpus of the demo: passages of the documentation that comes with Python.

The passages are the language topics of `pydoc_data`, and the docstrings of the standard modules with their classes and
functions. Ids are qualified names such as `asyncio.Queue.get`, or `topic:NAME`; the second passage of a text ends in
`#2`.

Rule: standard library only, and the same passages in the same order for the same version of Python.
"""

import hashlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pydoc_data.topics import topics
from textwrap import dedent
from types import ModuleType
from typing import Final, NamedTuple

from sluice.client import Document

MAX_WORDS: Final = 180
MIN_WORDS: Final = 4
# Importing these opens a browser, prints, opens a window or warns, or their texts are of no interest.
_SKIPPED: Final = frozenset(
    """
    antigravity distutils encodings ensurepip idlelib lib2to3 msilib nt ntpath pydoc_data sre_compile sre_constants
    sre_parse test tests this tkinter turtle turtledemo venv winreg winsound
    """.split()  # noqa: SIM905 - readable at once
)


class _Entry(NamedTuple):
    """A documented thing with its text. The module of a topic is empty."""

    name: str
    title: str
    kind: str
    module: str
    text: str


def corpus() -> Iterator[Document]:
    """Yield all passages, without repeated texts and ids."""
    seen_texts: set[bytes] = set()
    seen_ids: set[str] = set()
    for entry in _entries():
        for number, passage in enumerate(map(dedent, passages(entry.text)), start=1):
            document_id = entry.name if number == 1 else f"{entry.name}#{number}"
            digest = hashlib.sha256(passage.encode()).digest()
            if digest in seen_texts or document_id in seen_ids or len(passage.split()) < MIN_WORDS:
                continue
            seen_texts.add(digest)
            seen_ids.add(document_id)
            where = {"module": entry.module} if entry.module else {}
            yield Document(document_id, passage, entry.title, {"kind": entry.kind, **where})


def passages(text: str) -> Iterator[str]:
    """Yield passages of up to `MAX_WORDS` words, cut between paragraphs. A longer paragraph is cut between lines."""
    passage: list[str] = []
    count = 0
    for piece in _pieces(text):
        words = len(piece.split())
        if passage and count + words > MAX_WORDS:
            yield "\n\n".join(passage)
            passage, count = [], 0
        passage.append(piece)
        count += words
    if passage:
        yield "\n\n".join(passage)


def _pieces(text: str) -> Iterator[str]:
    """Yield paragraphs. A paragraph that is too long for a passage is split into runs of lines."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines: list[str] = []
        count = 0
        for line in paragraph.strip("\n").splitlines():
            words = len(line.split())
            if lines and count + words > MAX_WORDS:
                yield "\n".join(lines)
                lines, count = [], 0
            lines.append(line.rstrip())
            count += words
        if lines:
            yield "\n".join(lines)


def _entries() -> Iterator[_Entry]:
    for name in sorted(topics):
        title, _, text = topics[name].strip().partition("\n")
        yield _Entry(f"topic:{name}", title.strip(), "topic", "", text.lstrip("*=-^\n"))
    for module in _modules():
        yield from _module_entries(module)


def _modules() -> Iterator[ModuleType]:
    """Return the standard modules, shallow names first, so that a class belongs to the module it is imported from."""
    found = {name: module for name in sorted(sys.stdlib_module_names) if (module := _import(name))}
    for module in list(found.values()):
        for name in _submodule_names(module):
            if name not in found and (submodule := _import(name)):
                found[name] = submodule
    return iter(sorted(found.values(), key=lambda module: (module.__name__.count("."), module.__name__)))


def _submodule_names(module: ModuleType) -> list[str]:
    paths = getattr(module, "__path__", [])
    return sorted(info.name for info in pkgutil.walk_packages(paths, f"{module.__name__}.", onerror=lambda _: None))


def _import(name: str) -> ModuleType | None:
    """Return a module, None if it is private, skipped or cannot be imported."""
    if any(part.startswith("_") or part in _SKIPPED for part in name.split(".")):
        return None
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception:  # a module may raise anything where it does not work
        return None


def _module_entries(module: ModuleType) -> Iterator[_Entry]:
    name = module.__name__
    yield from _entry(module, name, "module", name)
    for member_name, member in _public_members(module):
        path = member_name if name == "builtins" else f"{name}.{member_name}"
        if inspect.isclass(member):
            yield from _entry(member, path, "class", name)
            for method_name, method in sorted(vars(member).items()):
                if not method_name.startswith("_"):
                    yield from _entry(_function_of(method), f"{path}.{method_name}", "function", name)
        elif callable(member):
            yield from _entry(member, path, "function", name)


def _public_members(module: ModuleType) -> Iterable[tuple[str, object]]:
    """Yield the members in `__all__`, or else the public ones that the module defines, sorted by name."""
    exported = getattr(module, "__all__", None)
    for name in sorted(set(exported if exported is not None else vars(module))):
        member = getattr(module, name, None)
        is_own = exported is not None or getattr(member, "__module__", None) == module.__name__
        if not name.startswith("_") and is_own and not inspect.ismodule(member):
            yield name, member


def _function_of(member: object) -> object:
    """Return the function of a class method or static method."""
    return member.__func__ if isinstance(member, classmethod | staticmethod) else member


def _entry(thing: object, name: str, kind: str, module: str) -> Iterator[_Entry]:
    """Yield the entry of a thing that has documentation of its own, not only that of its type."""
    text = getattr(thing, "__doc__", None)
    if isinstance(text, str) and (text is not type(thing).__doc__) and text.strip():
        yield _Entry(name, name, kind, module, inspect.cleandoc(text))
