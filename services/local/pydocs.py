"""The demo's corpus: the documentation that every Python carries, as passages.

Language topics of `pydoc_data`, and the docstrings of the standard modules, their classes and functions. Ids are
qualified names (`asyncio.Queue.get`), and `topic:` names for topics; the second passage of a text ends in `#2`.

Rule: standard library only, and the same passages in the same order for the same Python.
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
# Importing these does something (opens a browser, prints, starts a window), warns, or they are no reading matter.
_SKIPPED: Final = frozenset(
    """
    antigravity distutils encodings ensurepip idlelib lib2to3 msilib nt ntpath pydoc_data sre_compile sre_constants
    sre_parse test tests this tkinter turtle turtledemo venv winreg winsound
    """.split()  # noqa: SIM905 - readable at once
)


class _Entry(NamedTuple):
    """A documented thing, and what is said about it. A topic is in no module."""

    name: str
    title: str
    kind: str
    module: str
    text: str


def corpus() -> Iterator[Document]:
    """All passages, without repeated texts and ids."""
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
    """Passages of up to `MAX_WORDS` words, cut between paragraphs; a longer paragraph is cut between lines."""
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
    """Paragraphs; those that are too long for a passage in runs of lines."""
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
    """Standard modules, the shallow ones first: a class belongs to the module that people import it from."""
    found = {name: module for name in sorted(sys.stdlib_module_names) if (module := _imported(name))}
    for module in list(found.values()):
        for name in _submodule_names(module):
            if name not in found and (submodule := _imported(name)):
                found[name] = submodule
    return iter(sorted(found.values(), key=lambda module: (module.__name__.count("."), module.__name__)))


def _submodule_names(module: ModuleType) -> list[str]:
    paths = getattr(module, "__path__", [])
    return sorted(info.name for info in pkgutil.walk_packages(paths, f"{module.__name__}.", onerror=lambda _: None))


def _imported(name: str) -> ModuleType | None:
    """A module; None when it is private, left out, or not there on this machine."""
    if any(part.startswith("_") or part in _SKIPPED for part in name.split(".")):
        return None
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception:  # whatever a module does where it cannot work, we do without it
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
    """What a module offers: `__all__`, or else what is public and made in it; by name."""
    offered = getattr(module, "__all__", None)
    for name in sorted(set(offered if offered is not None else vars(module))):
        member = getattr(module, name, None)
        is_own = offered is not None or getattr(member, "__module__", None) == module.__name__
        if not name.startswith("_") and is_own and not inspect.ismodule(member):
            yield name, member


def _function_of(member: object) -> object:
    """The function in a class or static method."""
    return member.__func__ if isinstance(member, classmethod | staticmethod) else member


def _entry(thing: object, name: str, kind: str, module: str) -> Iterator[_Entry]:
    """The entry of a thing that has its own documentation; none when it says what its type says."""
    text = getattr(thing, "__doc__", None)
    if isinstance(text, str) and (text is not type(thing).__doc__) and text.strip():
        yield _Entry(name, name, kind, module, inspect.cleandoc(text))
