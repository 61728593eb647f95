"""Command line of the gateway: `python -m services.gateway`."""

import sys

from services.gateway.server import serving
from services.gateway.settings import GatewaySettings
from services.rpc.server.lifecycle import run_process
from services.rpc.settings import load


def main() -> None:
    """Serve until SIGTERM."""
    settings = load(GatewaySettings, sys.argv[1:], program="services.gateway")
    run_process(settings, lambda: serving(settings), program="services.gateway")


if __name__ == "__main__":
    main()
