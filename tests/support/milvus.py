"""A real Milvus: the standalone server of the package `milvus`, and Milvus Lite in this process."""

import importlib.util
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from tests.support.require import require
from tests.support.waiting import GUARD_S, until

PROGRAMS: Final = Path(__file__).parents[2] / ".venv" / "milvus" / "bin"
# On two quiet cores it starts within 10 to 40 s.
_START_S: Final = 600.0
# Less waiting than in a server for people: strong reads wait for the next tick, creating a collection for the next
# check, and a start for the end of what the killed server had promised to etcd.
_CONFIGURATION: Final = {
    "proxy.timeTickInterval": 20,
    "queryCoord.checkInterval": 100,
    "queryCoord.distPullInterval": 100,
    "common.session.ttl": 3,
}


class Standalone:
    """A Milvus server on free ports, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        is_installed = (PROGRAMS / "milvus").exists() and importlib.util.find_spec("milvus") is not None
        require(is_installed, "the Milvus server is not installed: run `make test` on x86-64 Linux")
        self._folder = folder
        self._metrics_port = _free_port()
        self._popen: subprocess.Popen[bytes] | None = None
        self._port = self._configured()

    @property
    def uri(self) -> str:
        """Its address, which is the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._metrics_port),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": str(PROGRAMS),
        }
        with (self._folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                # The kernel ends it when this process ends without having done so.
                ["setpriv", "--pdeathsig", "KILL", str(PROGRAMS / "milvus"), "run", "standalone"],
                cwd=self._folder,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, timeout_s=_START_S)

    def kill(self) -> None:
        """Kill the server and its children, and wait until they are gone."""
        if self._popen is not None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait(GUARD_S)
            self._popen = None

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        assert self._popen is not None
        self._popen.send_signal(number)

    def _answers(self) -> bool:
        assert self._popen is not None
        assert self._popen.poll() is None, (self._folder / "log").read_text()[-4000:]
        from pymilvus.grpc_gen.milvus_pb2 import CheckHealthRequest
        from pymilvus.grpc_gen.milvus_pb2_grpc import MilvusServiceStub

        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            try:
                return bool(MilvusServiceStub(channel).CheckHealth(CheckHealthRequest(), timeout=10).isHealthy)
            except grpc.RpcError:
                return False

    def _configured(self) -> int:
        """Write the configuration into the folder, and return the port."""
        from milvus import MilvusServerConfig

        config = MilvusServerConfig(data_dir=str(self._folder))
        ports = {name: _free_port() for name in config.configurable_items if name.endswith("_port")}
        config.update(**ports)
        for name, value in _CONFIGURATION.items():
            config.set(name, value)
        config.resolve()
        _set_etcd_ports(self._folder / "configs", ports["etcd_port"])
        return ports["proxy_port"]


def _set_etcd_ports(folder: Path, port: int) -> None:
    """Configure free ports for etcd: the package's configuration does not cover all of them."""
    peer = _free_port()
    lines = [
        "name: default",
        f"data-dir: {folder.parent / 'data' / 'etcd.data'}",
        f"listen-client-urls: http://127.0.0.1:{port}",
        f"advertise-client-urls: http://127.0.0.1:{port}",
        f"listen-peer-urls: http://127.0.0.1:{peer}",
        f"initial-advertise-peer-urls: http://127.0.0.1:{peer}",
        f"initial-cluster: default=http://127.0.0.1:{peer}",
        "log-level: error",
    ]
    (folder / "etcd.yaml").write_text("\n".join(lines) + "\n")
    configuration = folder / "milvus.yaml"
    text = configuration.read_text()
    configuration.write_text(text.replace("\netcd:\n", f"\netcd:\n  config:\n    path: {folder / 'etcd.yaml'}\n", 1))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: Any = probe.getsockname()[1]
        return int(port)


@contextmanager
def lite(folder: Path) -> Iterator[str]:
    """Run Milvus Lite in this process for the block, and yield its address."""
    require(importlib.util.find_spec("milvus_lite"), "Milvus Lite is not installed: run `make setup`")
    from milvus_lite.server_manager import server_manager_instance

    path = folder / "lite.db"
    uri = server_manager_instance.start_and_get_uri(str(path))
    assert uri is not None
    try:
        yield str(uri)
    finally:
        server_manager_instance.release_server(str(path))
