"""The published names of Sluice, gathered from its programs and files: flags, metrics, JSON fields, names of files.

`python -m tests.contract.published` writes them to `published.json` beside this file. Names of the protos are not here:
`buf breaking` guards them.
"""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from pydantic import BaseModel
from sluice.client import RetrievalClient

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.upstream.stubs import Upstream
from services.inference.bundle import Manifest
from services.orchestrator.pipelines.schema import PACKAGED, Pipeline
from services.rpc.auth.tokens import Token
from tests.support.processes import ROOT, running
from tests.support.upgrade.contents import other_schema, schema, upsert

FILE: Final = Path(__file__).with_name("published.json")

_MODULES: Final = (
    "services.embedding",
    "services.reranking",
    "services.retrieval",
    "services.orchestrator",
    "services.gateway",
    "services.retrieval.restore",
    "export",
    "loadtest load",
    "loadtest eval",
    "loadtest compare",
)
_GROUPS: Final = ("collections", "snapshots")
_LOADTEST: Final = [sys.executable, "-m", "loadtest"]
_COLLECTIONS: Final = {"docs", "notes", "windowed"}
_DIGITS: Final = re.compile(r"[0-9a-f]{8,}|\d+")

Published = dict[str, dict[str, list[str]]]
"""Names by kind, such as `metrics`, and within a kind by what has them, such as one metric with its labels."""


def gather() -> Published:
    """Return every published name of the work tree."""
    return {
        "commands": _commands(),
        "modules": _of_programs({f"python -m {one}": [sys.executable, "-m", *one.split()] for one in _MODULES})
        | {
            "commands of python -m loadtest": _names_of_commands(_LOADTEST),
            "commands of python -m loadtest bench": _names_of_commands([*_LOADTEST, "bench"]),
        },
        "metrics": _metrics(),
        "gateway": _gateway(),
        "pipelines": _pipelines(),
        "tokens": {"entry": sorted(Token.model_fields)},
        "bundle": _keys_of(Manifest),
        "data": _data(),
    }


def _commands() -> dict[str, list[str]]:
    """Return the options of `sluice` and of each of its commands."""
    sluice = [sys.executable, "-m", "sluice"]
    names = _names_of_commands(sluice)
    nested = [f"{group} {name}" for group in _GROUPS for name in _names_of_commands([*sluice, group])]
    return _of_programs({f"sluice {name}".strip(): [*sluice, *name.split()] for name in ("", *names, *nested)})


def _names_of_commands(program: list[str]) -> list[str]:
    return re.findall(r"^│ ([a-z][a-z-]*)(?= {2})", _help(program), re.MULTILINE)


def _of_programs(programs: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the flags that each program's `--help` names, and the environment variables."""
    with ThreadPoolExecutor() as pool:
        pages = dict(zip(programs, pool.map(_help, programs.values()), strict=True))
    return {name: sorted(set(re.findall(r"--[a-z][a-z0-9-]*|SLUICE_[A-Z_]+", page))) for name, page in pages.items()}


def _help(program: list[str]) -> str:
    environment = os.environ | {"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"}
    command = [*program, "--help"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def _metrics() -> dict[str, list[str]]:
    """Return the labels of each metric in METRICS.md. Another test compares that table with what servers expose."""
    (table,) = (ROOT / "services").rglob("METRICS.md")
    rows = [line.split("|")[1:4] for line in table.read_text().splitlines() if line.startswith("| `")]
    return {name.strip(" `"): re.findall(r"`(\w+)`", labels) for name, _, labels in rows}


def _gateway() -> dict[str, list[str]]:
    """Return the parameters and the fields of the body of each route."""
    schema = asyncio.run(_openapi())
    routes = {}
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            names = {one["name"] for one in route.get("parameters", [])}
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            routes[f"{method.upper()} {path}"] = sorted(names | set(_properties(body, schema)))
    return routes


async def _openapi() -> dict[str, Any]:
    settings = GatewaySettings()
    upstream = Upstream(settings)
    try:
        return create_app(settings, upstream).openapi()
    finally:
        await upstream.close()


def _properties(body: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """Yield the fields of a body, including those of alternatives and of list items."""
    if "$ref" in body:
        yield from _properties(schema["components"]["schemas"][body["$ref"].rpartition("/")[2]], schema)
    for name, one in body.get("properties", {}).items():
        yield name
        yield from (f"{name}.{nested}" for nested in _properties(one, schema))
    for one in [*body.get("anyOf", []), *([body["items"]] if "items" in body else [])]:
        yield from _properties(one, schema)


def _pipelines() -> dict[str, list[str]]:
    """Return the keys of a pipelines file, and the names of the packaged pipelines and their stages."""
    packaged = {
        name: sorted(_values(pipeline, "name")) for name, pipeline in yaml.safe_load(PACKAGED.read_text()).items()
    }
    return _keys_of(Pipeline) | {f"packaged {name}": stages for name, stages in packaged.items()}


def _values(tree: Any, key: str) -> Iterator[str]:
    """Yield the values of a key anywhere in a tree of dictionaries and lists."""
    if isinstance(tree, dict):
        yield from (value for name, value in tree.items() if name == key)
    for one in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _values(one, key)


def _keys_of(model: type[BaseModel]) -> dict[str, list[str]]:
    """Return the keys of a file that a Pydantic model reads, at all levels together."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return {"keys": sorted({key for part in parts for key in part.get("properties", {})})}


def _data() -> dict[str, list[str]]:
    """Return the names in a data folder and in a snapshot: of files, of tables with columns, of keys."""
    with tempfile.TemporaryDirectory(prefix="sluice-published-") as folder:
        data, snapshots = Path(folder, "data"), Path(folder, "snapshots")
        flags = ("--data", str(data), "--snapshots", str(snapshots), "--segment-documents", "20")
        with running("services.retrieval", *flags) as server, RetrievalClient(server.address, timeout_s=60) as client:
            _fill(client)
            client.create_snapshot("one")
        database = next(data.glob("*.sqlite3"))
        return {
            "files": _files(data),
            "snapshot": _files(snapshots),
            "arrays of segments": _arrays(data),
            "keys of schemas": _schema_keys(database),
            "keys of JSON files": sorted(
                {key for path in Path(folder).rglob("*.json") for key in _json_keys(json.loads(path.read_text()))}
            ),
        } | _tables(database)


def _fill(client: RetrievalClient) -> None:
    """Store documents with a field of each kind and form, merged into a segment, and a schema with all keys."""
    client.create_collection("docs", schema())
    client.upsert(upsert("docs", schema(), 0, 25))
    client.create_collection("notes", other_schema())
    client.upsert(upsert("notes", other_schema(), 0, 25))
    for name in ("docs", "notes"):
        client.optimize_collection(name)
    windowed = other_schema()
    windowed.windows.overlap_token_count = 8
    client.create_collection("windowed", windowed)


def _arrays(folder: Path) -> list[str]:
    """Return the names of the arrays that segments keep together."""
    names: set[str] = set()
    for path in folder.rglob("*.npz"):
        with np.load(path) as file:
            names |= set(file.files)
    return sorted(names)


def _schema_keys(database: Path) -> list[str]:
    """Return the keys of the JSON in which schemas of collections are stored."""
    with closing(sqlite3.connect(database)) as connection:
        found = [json.loads(text) for (text,) in connection.execute("SELECT schema FROM collections")]
    return sorted({key for one in found for key in _json_keys(one)})


def _files(folder: Path) -> list[str]:
    """Return the names of files and folders; numbers and hashes in them as `N`."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return sorted({_DIGITS.sub("N", name) for name in names if not name.endswith(("-wal", "-shm"))})


def _json_keys(tree: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of keys; keys that are names of files or collections as `*`."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        name = f"{path}.{key if key.isidentifier() and key not in _COLLECTIONS else '*'}".lstrip(".")
        yield name
        yield from _json_keys(value, name)
    for one in tree if isinstance(tree, list) else ():
        yield from _json_keys(one, path)


def _tables(database: Path) -> dict[str, list[str]]:
    """Return the columns of each table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {
            f"table {_DIGITS.sub('N', table)}": [
                column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            ]
            for table in tables
        }


if __name__ == "__main__":
    FILE.write_text(json.dumps(gather(), indent=1, sort_keys=True) + "\n")
