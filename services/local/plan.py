"""The command lines and addresses of a system on this machine."""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_PORT_OFFSETS: Final = {"orchestrator": 0, "embedding": 1, "retrieval": 2, "reranking": 3, "gateway": 4}
# The ports after the gateway's: the metrics pages of the four services, which the console draws.
_METRICS_OFFSET: Final = 5
DEFAULT_PORT: Final = 50050
LAST_PORT: Final = 65_535 - _METRICS_OFFSET - 3
_GATEWAY_MODULES: Final = ("fastapi", "httptools", "orjson", "uvicorn")


def has_gateway() -> bool:
    """Return whether the packages of the extra `gateway` are installed."""
    return all(find_spec(module) is not None for module in _GATEWAY_MODULES)


@dataclass(frozen=True)
class Plan:
    """The settings of a system on this machine."""

    home: Path
    embedding_bundle: Path
    reranking_bundle: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """The port of the orchestrator; the next eight ports are used too."""
    pipelines: Path | None = None
    variant: str = "auto"
    gateway: bool = field(default_factory=has_gateway)

    def address(self, name: str) -> str:
        """Return the address of a service."""
        return f"{self.host}:{self.port + _PORT_OFFSETS[name]}"

    def metrics(self, name: str) -> str:
        """Return the address of a service's metrics page."""
        return f"{self.host}:{self.port + _METRICS_OFFSET + _PORT_OFFSETS[name]}"

    def commands(self) -> dict[str, list[str]]:
        """Return the command line of each service by name, in the order to start them."""
        downstream = [f"--{name}={self.address(name)}" for name in ("embedding", "retrieval", "reranking")]
        arguments = {
            "embedding": ["--bundles", str(self.embedding_bundle), "--variant", self.variant],
            "retrieval": ["--data", str(self.home / "data")],
            "reranking": ["--bundles", str(self.reranking_bundle), "--variant", self.variant],
            "orchestrator": downstream + ([f"--pipelines={self.pipelines}"] if self.pipelines else []),
        }
        for name, own in arguments.items():
            own += ["--metrics-listen", self.metrics(name)]
        if self.gateway:
            scraped = [f"--scrape={name}={self.metrics(name)}" for name in arguments]
            arguments["gateway"] = [f"--orchestrator={self.address('orchestrator')}", *downstream, *scraped]
        # -P keeps a folder `services` in the current directory from being imported instead of ours.
        return {
            name: [sys.executable, "-P", "-m", f"services.{name}", "--listen", self.address(name), *own]
            for name, own in arguments.items()
        }
