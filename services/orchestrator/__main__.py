"""Starts the orchestrator: `python -m services.orchestrator`."""

import sys

from services.orchestrator.server import build
from services.orchestrator.settings import OrchestratorSettings
from services.rpc.server.lifecycle import run
from services.rpc.settings import load


def main() -> None:
    """Serve until SIGTERM."""
    settings = load(OrchestratorSettings, sys.argv[1:], program="services.orchestrator")
    run(settings, lambda: build(settings), program="services.orchestrator")


if __name__ == "__main__":
    main()
