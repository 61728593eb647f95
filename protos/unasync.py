"""Generator of the sync clients from the async ones: `python protos/unasync.py`.

Both clients of a service are in one module of `sluice.client`. The methods between the two markers of a sync class are
generated from those of the async class. Methods after the markers differ from the async ones and are written by hand;
async methods with their names are skipped.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

CLIENT: Final = Path(__file__).parent / "python" / "sluice" / "client"
START: Final = "    # Generated from {} by protos/unasync.py; do not edit.\n"
END: Final = "    # End of the generated code.\n"
REPLACEMENTS: Final = (
    (r"\basync def\b", "def"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\bgrpc\.aio\.", "grpc."),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r'"(\w+)AsyncStub"', r"\1Stub"),
)

Span = tuple[int, int]


def modules() -> list[Path]:
    """Return the modules that contain generated code."""
    return [path for path in sorted(CLIENT.glob("*.py")) if END in path.read_text()]


def regenerated(text: str) -> str:
    """Return a module with its generated code up to date. Raises ValueError if a marker has no async class."""
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    for name in re.findall(START.format(r"(\w+)"), text):
        start, end = text.index(START.format(name)) + len(START.format(name)), text.index(END)
        if name not in classes:
            raise ValueError(f"expected a class {name} in the module, got {', '.join(classes)}")
        by_hand = names_after(classes[name.removeprefix("Async")], text.count("\n", 0, end))
        methods = [one for one in methods_of(classes[name]) if one.name not in by_hand]
        body = "\n".join(synchronous(source_of(one, text)) for one in methods)
        text = f"{text[:start]}\n{body}\n{text[end:]}"
    return formatted(text)


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the methods of a class."""
    return [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]


def names_after(node: ast.ClassDef, line: int) -> set[str]:
    """Return the names of the methods of a class below a line."""
    return {one.name for one in methods_of(node) if one.lineno > line}


def source_of(method: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> str:
    """Return the lines of a method, its decorators included."""
    first = min(node.lineno for node in (method, *method.decorator_list))
    return "".join(text.splitlines(keepends=True)[first - 1 : method.end_lineno])


def synchronous(source: str) -> str:
    """Return the sync version of an async method."""
    for start, end in reversed(awaits(source)):
        is_grouped = source[start - 1] == "(" and source[end] == ")" and not re.search(r"[\w)\]]$", source[: start - 1])
        operand = source[start + len("await ") : end]
        source = (
            source[: start - 1] + operand + source[end + 1 :] if is_grouped else source[:start] + operand + source[end:]
        )
    for pattern, replacement in REPLACEMENTS:
        source = re.sub(pattern, replacement, source)
    return source


def awaits(source: str) -> list[Span]:
    """Return where the await expressions of a method begin and end, in order. None contains another."""
    lines = ("class _:\n" + source).splitlines(keepends=True)
    offsets = [sum(map(len, lines[:at])) - len(lines[0]) for at in range(len(lines))]
    nodes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.Await)]
    return sorted(
        (offsets[node.lineno - 1] + node.col_offset, offsets[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0))
        for node in nodes
    )


def formatted(text: str) -> str:
    """Return the code as `ruff format` writes it."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(CLIENT / "module.py"), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603 - a fixed command


def main() -> None:
    """Update the generated code in all modules."""
    for path in modules():
        path.write_text(regenerated(path.read_text()))


if __name__ == "__main__":
    main()
