"""Starts the embedding server: `python -m services.embedding --bundles DIR`."""

import sys

from services.embedding.server import build
from services.embedding.settings import EmbeddingSettings
from services.rpc.server.lifecycle import run
from services.rpc.settings import load


def main() -> None:
    """Serve until SIGTERM."""
    settings = load(EmbeddingSettings, sys.argv[1:], program="services.embedding")
    run(settings, lambda: build(settings), program="services.embedding")


if __name__ == "__main__":
    main()
