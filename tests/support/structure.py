"""The structure of the source: which module imports which, in how many levels and circles, and the size of functions.

`python -m tests.support.structure [FOLDER ...]` prints a line for each folder: files, the most files side by side,
arrows (imports between its modules), levels (modules on the longest chain of imports), circles, and the median, the
90th percentile and the maximum of the lines of its functions. The longest functions follow.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_GENERATED: Final = {"v1", "v2"}
_LONGEST: Final = 20
# Where the top-level packages are: `sluice` lies below `protos/python`.
_ROOTS: Final = (ROOT / "protos/python", ROOT)

Graph = Mapping[str, Set[str]]
"""The modules that each module imports."""


def sources(folder: str) -> list[Path]:
    """Return the Python files below a folder of the repository, without generated code."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if path.parent.name not in _GENERATED]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each import of a file, those in functions and under TYPE_CHECKING included.

    `from a import b` is `a.b`.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def module_of(path: Path) -> str:
    """Return the name by which a file is imported."""
    root = next(one for one in _ROOTS if path.is_relative_to(one))
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(*folders: str) -> Graph:
    """Return the imports between the modules of folders."""
    files = {module_of(path): path for folder in folders for path in sources(folder)}
    return {
        module: {found for _, name in imports(path) if (found := _imported(name, files)) and found != module}
        for module, path in files.items()
    }


def _imported(name: str, modules: Mapping[str, Path]) -> str | None:
    """Return the module that an import loads: `a.b` itself, or `a` when `b` is a name in it."""
    return name if name in modules else parent if (parent := name.rpartition(".")[0]) in modules else None


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or by way of others."""
    reached = {module: _reached(graph, module) for module in graph}
    groups = {
        module: [other for other in sorted(found) if module in reached[other]] for module, found in reached.items()
    }
    return [group for module, group in sorted(groups.items()) if group and group[0] == module]


def _reached(graph: Graph, start: str) -> set[str]:
    """Return what a module imports, directly or by way of others; itself when it is in a circle."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def levels(graph: Graph) -> int:
    """Return the number of modules on the longest chain of imports; modules of a circle count as one."""
    group_of = {module: circle[0] for circle in circles(graph) for module in circle}
    merged: dict[str, set[str]] = {}
    for module, others in graph.items():
        own = group_of.get(module, module)
        merged.setdefault(own, set()).update(name for other in others if (name := group_of.get(other, other)) != own)
    depth: dict[str, int] = {}

    def deep(module: str) -> int:
        if module not in depth:
            depth[module] = 1 + max((deep(other) for other in merged[module]), default=0)
        return depth[module]

    return max(map(deep, merged), default=0)


@dataclass(frozen=True, order=True)
class Function:
    """A function or method: its lines, from `def` to its end with the docstring, and where it is."""

    lines: int
    place: str


def functions(folder: str) -> list[Function]:
    """Return the functions below a folder, shortest first; nested ones count by themselves and in the outer one."""
    return sorted(
        Function(node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    )


def _sizes(found: list[Function]) -> str:
    """Return the median, the 90th percentile and the maximum of lines as columns."""
    lines = [one.lines for one in found] or [0]
    return f"{median(lines):8.0f}{lines[len(lines) * 9 // 10]:6}{lines[-1]:9}"


def describe(folder: str) -> str:
    """Return a line about a folder, and one for each circle in it."""
    graph, files = graph_of(folder), sources(folder)
    flat = max(Counter(path.parent for path in files if path.name != "__init__.py").values(), default=0)
    arrows, rings = sum(map(len, graph.values())), circles(graph)
    numbers = f"{folder:24}{len(files):7}{flat:13}{arrows:8}{levels(graph):8}{len(rings):9}{_sizes(functions(folder))}"
    return "\n".join([numbers, *(f"    circle: {', '.join(ring)}" for ring in rings)])


def main() -> None:
    """Print the structure of the folders that are given, else of every service and top-level package."""
    services = sorted(f"services/{path.parent.name}" for path in (ROOT / "services").glob("*/__init__.py"))
    folders = sys.argv[1:] or [*services, "export", "loadtest", "protos/python/sluice"]
    head = f"{'folder':24}{'files':>7}{'side by side':>13}{'arrows':>8}{'levels':>8}{'circles':>9}"
    head += f"{'median':>8}{'p90':>6}{'longest':>9}"
    every = sorted(function for folder in folders for function in functions(folder))
    total = f"{'all':69}{_sizes(every)}"
    longest = [f"{one.lines:5}  {one.place}" for one in reversed(every[-_LONGEST:])]
    sys.stdout.write("\n".join([head, *map(describe, folders), total, "", "longest functions:", *longest]) + "\n")


if __name__ == "__main__":
    main()
