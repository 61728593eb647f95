"""The command `python -m services.retrieval`, which runs the retrieval server."""

import sys
from functools import partial

from services.retrieval.server import build
from services.retrieval.settings import RetrievalSettings
from services.rpc.server.lifecycle import run
from services.rpc.settings import load

PROGRAM = "sluice-retrieval"

if __name__ == "__main__":
    settings = load(RetrievalSettings, sys.argv[1:], program=PROGRAM)
    run(settings, partial(build, settings), program=PROGRAM)
