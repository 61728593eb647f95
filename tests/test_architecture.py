"""The architecture's invariants that code can break by accident: who imports whom, and how long things get."""

import ast
import subprocess
import sys
from collections import Counter

import pytest

from tests.support.structure import ROOT, circles, graph_of, imports, sources

SERVICES = {"embedding", "retrieval", "reranking", "orchestrator", "gateway"}

# What each part may import of ours. `sluice` is the wire contract with its errors; `sluice.client` is a caller.
ALLOWED = {
    "services/core": {"services.core"},
    "services/rpc": {"services.rpc", "sluice"},
    "services/inference": {"services.core", "services.inference", "services.rpc", "sluice"},
    "services/compat": {"services.core", "services.compat", "services.inference", "services.rpc", "sluice"},
    "services/embedding": {
        "services.core",
        "services.compat",
        "services.embedding",
        "services.inference",
        "services.rpc",
        "sluice",
    },
    "services/reranking": {
        "services.core",
        "services.compat",
        "services.inference",
        "services.reranking",
        "services.rpc",
        "sluice",
    },
    "services/retrieval": {"services.core", "services.retrieval", "services.rpc", "sluice"},
    "services/orchestrator": {"services.core", "services.orchestrator", "services.rpc", "sluice"},
    "services/gateway": {"services.core", "services.gateway", "services.rpc", "sluice"},
    "services/local": {"services.local", "sluice"},
    "export": {"export", "services.core", "services.inference", "sluice.signals"},
    # The client imports no server, no export and no load test.
    "protos/python/sluice": {"sluice"},
}
# Parts that are callers of the services, and so may use what callers have.
CALLERS: dict[str, set[str]] = {
    "services/gateway": {"sluice.cli"},
    "services/local": set(),
    "protos/python/sluice": set(),
}
# Third-party packages that only some parts may know.
CONFINED = {
    "torch": {"export", "loadtest"},
    "transformers": {"export", "loadtest"},
    "optimum": {"export"},
    "sentence_transformers": {"export", "loadtest"},
    "onnxruntime": {"services/inference/runtime.py", "export", "loadtest"},
    "faiss": {"services/retrieval/embedded/index", "loadtest"},
    "sqlite3": {"services/retrieval/embedded/storage", "services/retrieval/snapshots"},
    "pymilvus": {"services/retrieval/milvus"},
    "prometheus_client": {
        "services/gateway/metrics.py",
        "services/inference/metrics.py",
        "services/orchestrator/metrics.py",
        "services/retrieval/metrics.py",
        "services/rpc",
        "loadtest",
    },
    "fastapi": {"services/gateway"},
    "starlette": {"services/gateway"},
    "uvicorn": {"services/gateway"},
}
PURE = {"asyncio", "grpc", "os", "pathlib", "socket", "threading", "time"}
LONGEST_FUNCTION = 70
LONGEST_FILE = 400
LONGEST_MAIN = 15


def is_in(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def test_dependencies_point_one_way() -> None:
    ours = {"services", "export", "loadtest", "sluice", "tests"}
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for part, allowed in ALLOWED.items()
        for path in sources(part)
        for line, name in imports(path)
        if is_in(name, ours)
        and (not is_in(name, allowed) or is_in(name, CALLERS.get(part, {"sluice.client", "sluice.cli"})))
    ]
    assert not broken, "\n".join(broken)


def test_every_part_is_covered() -> None:
    folders = {f"services/{path.name}" for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists()}
    assert folders == {part for part in ALLOWED if part.startswith("services/")}


def test_a_folder_with_a_main_is_a_process_and_no_other_is() -> None:
    processes = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
    assert processes == SERVICES


def test_confined_packages_stay_where_they_belong() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for part in (*ALLOWED, "loadtest")
        for path in sources(part)
        for line, name in imports(path)
        for package, homes in CONFINED.items()
        if is_in(name, {package}) and not any(path.is_relative_to(ROOT / home) for home in homes)
    ]
    assert not broken, "\n".join(broken)


def test_the_core_has_no_clock_no_files_no_network() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("services/core")
        for line, name in imports(path)
        if is_in(name, PURE)
    ]
    assert not broken, "\n".join(broken)


def test_imports_run_in_no_circles() -> None:
    found = circles(graph_of("services", "export", "loadtest", "protos/python/sluice"))
    assert not found


def test_functions_and_files_stay_small() -> None:
    parts = ["services", "export", "loadtest", "protos/python/sluice"]
    large = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for part in parts
        for path in sources(part)
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    ]
    for part in parts:
        for path in sources(part):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > LONGEST_FUNCTION:
                        large.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not large, "\n".join(large)


def test_the_servers_have_one_shape() -> None:
    for service in SERVICES:
        folder = ROOT / "services" / service
        names = {path.stem for path in folder.iterdir()}
        own = {"app"} if service == "gateway" else {"servicer", "wire"}
        assert names >= {"__main__", "server", "settings", *own}, service
        functions = {getattr(node, "name", "") for node in ast.parse((folder / "server.py").read_text()).body}
        assert ("serving" if service == "gateway" else "build") in functions, f"{service}/server.py builds no server"
        lines = (folder / "__main__.py").read_text().splitlines()
        assert sum(map(bool, map(str.strip, lines))) <= LONGEST_MAIN, f"{service}: __main__.py is too long"


# What each folder of the gateway may import of the gateway. `server.py` and `app.py` join them.
GATEWAY_LAYERS = {
    "http": {"http"},
    "upstream": {"access", "http", "settings", "upstream"},
    "routes": {"http", "routes", "upstream"},
}


def test_the_gateway_is_layered() -> None:
    flat = {path.stem for path in (ROOT / "services/gateway").glob("*.py")}
    assert flat >= {"__main__", "app", "server", "settings"}
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for folder, allowed in GATEWAY_LAYERS.items()
        for path in sources(f"services/gateway/{folder}")
        for line, name in imports(path)
        if is_in(name, {"services.gateway"}) and not is_in(name, {f"services.gateway.{one}" for one in allowed})
    ]
    assert not broken, "\n".join(broken)


# What each folder of rpc may import of rpc; modules beside the folders import none of them.
RPC_LAYERS = {
    "server": {"server", "auth", "observability"},
    "auth": {"auth", "observability"},
    "client": {"client", "auth.tls", "observability"},
    "observability": {"observability"},
}


def test_rpc_is_layered() -> None:
    flat = {f"services.rpc.{path.stem}" for path in (ROOT / "services/rpc").glob("*.py")}
    assert len(flat) <= 1 + 6
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("services/rpc")
        for line, name in imports(path)
        if is_in(name, {"services.rpc"})
        and not is_in(name, flat | {f"services.rpc.{one}" for one in RPC_LAYERS.get(path.parent.name, set())})
    ]
    assert not broken, "\n".join(broken)


# What each folder of the orchestrator may import of the orchestrator: search -> pipelines -> downstream, and
# indexing -> downstream. The shared modules beside the folders import downstream only.
ORCHESTRATOR_LAYERS = {
    "downstream": {"downstream"},
    "pipelines": {"downstream", "pipelines", "chunks"},
    "indexing": {"downstream", "indexing", "chunks", "documents", "metrics"},
    "search": {"downstream", "pipelines", "search", "chunks", "discovery", "documents", "metrics"},
    "chunks": {"downstream"},
    "discovery": {"downstream"},
    "documents": set(),
    "metrics": set(),
}


def test_the_orchestrator_is_layered() -> None:
    folder = ROOT / "services/orchestrator"
    flat = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(flat) <= 12
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for layer, allowed in ORCHESTRATOR_LAYERS.items()
        for path in (sources(f"services/orchestrator/{layer}") or [folder / f"{layer}.py"])
        for line, name in imports(path)
        if is_in(name, {"services.orchestrator"})
        and not is_in(name, {f"services.orchestrator.{one}" for one in allowed})
    ]
    assert not broken, "\n".join(broken)


# What each folder of retrieval, and each module that folders use, may import of retrieval.
RETRIEVAL_LAYERS: dict[str, set[str]] = {
    "cancellation": set(),
    "files": set(),
    "metrics": set(),
    "lanes": {"cancellation", "metrics"},
    "domain": {"domain", "metrics"},
    "embedded": {"cancellation", "domain", "embedded", "files", "lanes", "metrics"},
    "embedded/index": {"cancellation", "domain", "embedded.index"},
    "embedded/search": {"domain", "embedded.index", "embedded.search"},
    "embedded/storage": {"cancellation", "domain", "embedded.index", "embedded.storage", "files"},
    "milvus": {"domain", "lanes", "metrics", "milvus"},
    "snapshots": {"cancellation", "domain", "files", "snapshots"},
    "hybrid": {"domain", "hybrid"},
    "wire": {"domain", "hybrid", "snapshots", "wire"},
}
# Names that stand twice in a service: the engines of retrieval mirror each other.
MIRRORED = {"services/retrieval": {"collections", "engine", "metrics", "reader"}}


def test_retrieval_is_layered() -> None:
    root = ROOT / "services/retrieval"
    assert {str(path.parent.relative_to(root)) for path in sources("services/retrieval")} <= {".", *RETRIEVAL_LAYERS}
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for layer, allowed in RETRIEVAL_LAYERS.items()
        for path in (list((root / layer).glob("*.py")) or [root / f"{layer}.py"])
        for line, name in imports(path)
        if is_in(name, {"services.retrieval"}) and not is_in(name, {f"services.retrieval.{one}" for one in allowed})
    ]
    assert not broken, "\n".join(broken)


def test_folders_of_retrieval_are_small() -> None:
    folders = Counter(path.parent for path in sources("services/retrieval") if path.stem != "__init__")
    assert max(folders.values()) <= 10


@pytest.mark.parametrize("service", [part for part in ALLOWED if part.startswith("services/")])
def test_file_names_are_unique_in_a_service(service: str) -> None:
    """A file in `wire` has the name of the module that it translates; a published command, that of its module."""
    command = ROOT / "services/retrieval/restore.py"
    paths = [path for path in sources(service) if path.stem != "__init__" and path != command]
    names = Counter(path.stem for path in paths if path.parent.name != "wire")
    assert {name for name, count in names.items() if count > 1} <= MIRRORED.get(service, set())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("services.retrieval.milvus.engine", {"faiss", "sqlite3"}),
        ("services.retrieval.snapshots.restore", {"faiss", "grpc"}),
        ("services.retrieval.server", {"faiss", "pymilvus"}),
    ],
)
def test_a_module_loads_only_the_packages_that_it_needs(module: str, unwanted: set[str]) -> None:
    program = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert module in loaded
    assert not unwanted & set(loaded)
