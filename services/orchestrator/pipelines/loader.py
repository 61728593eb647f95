"""Reads a YAML file of pipelines and checks it.

Rule: a file is accepted as a whole or not at all. The error lists every problem with its line.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from services.orchestrator.pipelines.schema import DEFAULT_NAME, Location, Name, Pipeline

_TAGS: Final = ("rrf", "weighted_sum")


class PipelinesError(Exception):
    """An invalid file of pipelines. `problems` has a line for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: Path) -> dict[str, Pipeline]:
    """Return the pipelines of a file by name. Raises PipelinesError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PipelinesError([f"{path}: expected a file of UTF-8 text: {error}"]) from error
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> dict[str, Pipeline]:
    """Return the pipelines of a YAML text by name. Raises PipelinesError; its problems begin with `source:LINE:`."""
    root, content = _read_yaml(text, source)
    if not isinstance(content, dict) or not content:
        raise PipelinesError([f"{source}:1: expected pipelines by name, got {type(content).__name__}"])
    pipelines, found = _validate(content)
    found += [((), f"expected a pipeline named {DEFAULT_NAME}, got none")] if DEFAULT_NAME not in content else []
    problems = [(_line(root, location), location, problem) for location, problem in found]
    problems += [(line, (), f"expected each key once, got {key!r} again") for line, key in _repeated_keys(root)]
    if problems:
        raise PipelinesError([_format(source, *problem) for problem in sorted(problems, key=lambda item: item[0])])
    return pipelines


def _read_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """Return the nodes of a YAML text, which have lines, and its content. Raises PipelinesError."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PipelinesError([f"{source}:{line}: expected YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise PipelinesError([f"{source}:1: expected YAML: {error}"]) from error


def _validate(content: dict[Any, Any]) -> tuple[dict[str, Pipeline], list[tuple[Location, str]]]:
    """Return the valid pipelines, and the problems of the others."""
    pipelines: dict[str, Pipeline] = {}
    found: list[tuple[Location, str]] = []
    for name, fields in content.items():
        try:
            entry = _Entry(name=name, pipeline=fields)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                location = (name, *_without_tags(fields, item["loc"][1:]))
                found.append((location, f"{item['msg']}, got {item['input']!r:.80}"))
        else:
            found += [((name, *location), problem) for location, problem in entry.pipeline.problems()]
            pipelines[entry.name] = entry.pipeline
    return pipelines, found


def _without_tags(fields: Any, location: Location) -> Iterator[int | str]:
    """Yield the parts of a location without the tags of unions, which pydantic adds and the file does not have."""
    for part in location:
        is_key = part in fields if isinstance(fields, dict) else isinstance(fields, list) and isinstance(part, int)
        if is_key or part not in _TAGS:
            yield part
            fields = fields[part] if is_key else None


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    pipeline: Pipeline


def _format(source: str, line: int, location: Location, problem: str) -> str:
    path = ".".join(map(str, location))
    return f"{source}:{line}: {path}: {problem}" if path else f"{source}:{line}: {problem}"


def _line(node: yaml.Node | None, location: Location) -> int:
    """Return the line of the deepest part of `location` that exists. Lines count from 1."""
    line = 1 if node is None or not location else node.start_mark.line + 1
    for part in location:
        step = _child(node, part)
        if step is None:
            return line
        line, node = step
    return line


def _child(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    """Return the line and the node of a key or an index; None if there is none."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _repeated_keys(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each key that a mapping has twice. YAML would silently use the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, str(key.value)
            seen.add(str(key.value))
            yield from _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated_keys(value)
