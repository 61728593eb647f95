"""Starts the reranking server: `python -m services.reranking --bundles DIR`."""

import sys

from services.reranking.server import build
from services.reranking.settings import RerankingSettings
from services.rpc.server.lifecycle import run
from services.rpc.settings import load


def main() -> None:
    """Serve until SIGTERM."""
    settings = load(RerankingSettings, sys.argv[1:], program="services.reranking")
    run(settings, lambda: build(settings), program="services.reranking")


if __name__ == "__main__":
    main()
