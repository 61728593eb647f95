"""A file of pipelines, YAML, read and checked.

Rule: a file is taken whole or not at all, and every problem is told at once with its line.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from services.orchestrator.pipelines.schema import DEFAULT_NAME, Location, Name, Pipeline

_TAGS: Final = ("rrf", "weighted_sum")


class PipelinesError(Exception):
    """A pipelines file that cannot be used. `problems` names each with its line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: Path) -> dict[str, Pipeline]:
    """The pipelines of a file by name. Raises PipelinesError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PipelinesError([f"{path}: expected a file of UTF-8 text: {error}"]) from error
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> dict[str, Pipeline]:
    """The pipelines of a YAML text by name. Raises PipelinesError; its lines begin `source:LINE:`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PipelinesError([f"{source}:{line}: expected YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise PipelinesError([f"{source}:1: expected YAML: {error}"]) from error
    if not isinstance(content, dict) or not content:
        raise PipelinesError([f"{source}:1: expected pipelines by name, got {type(content).__name__}"])
    pipelines, found = _validated(content)
    found += [((), f"expected a pipeline named {DEFAULT_NAME}, got none")] if DEFAULT_NAME not in content else []
    problems = [(_line(root, location), location, what) for location, what in found]
    problems += [(line, (), f"expected each key once, got {key!r} again") for line, key in _repeated(root)]
    if problems:
        raise PipelinesError([_told(source, *problem) for problem in sorted(problems, key=lambda item: item[0])])
    return pipelines


def _validated(content: dict[Any, Any]) -> tuple[dict[str, Pipeline], list[tuple[Location, str]]]:
    """Pipelines that are right, and what is wrong with the others."""
    pipelines: dict[str, Pipeline] = {}
    found: list[tuple[Location, str]] = []
    for name, fields in content.items():
        try:
            entry = _Entry(name=name, pipeline=fields)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                location = (name, *_in_file(fields, item["loc"][1:]))
                found.append((location, f"{item['msg']}, got {item['input']!r:.80}"))
        else:
            found += [((name, *location), what) for location, what in entry.pipeline.problems()]
            pipelines[entry.name] = entry.pipeline
    return pipelines, found


def _in_file(fields: Any, location: Location) -> Iterator[int | str]:
    """A location without the tags of alternatives, which pydantic puts in and the file does not have."""
    for part in location:
        is_key = part in fields if isinstance(fields, dict) else isinstance(fields, list) and isinstance(part, int)
        if is_key or part not in _TAGS:
            yield part
            fields = fields[part] if is_key else None


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    pipeline: Pipeline


def _told(source: str, line: int, location: Location, what: str) -> str:
    where = ".".join(map(str, location))
    return f"{source}:{line}: {where}: {what}" if where else f"{source}:{line}: {what}"


def _line(node: yaml.Node | None, location: Location) -> int:
    """Line of the deepest part of `location` that is there; 1 is the first."""
    line = 1 if node is None or not location else node.start_mark.line + 1
    for part in location:
        step = _step(node, part)
        if step is None:
            return line
        line, node = step
    return line


def _step(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    """Line and node of one key or index; None when it is not there."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _repeated(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Line and name of every key that is in one mapping twice: YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, str(key.value)
            seen.add(str(key.value))
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)
