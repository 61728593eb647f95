"""The command `python -m services.retrieval.restore`, which restores a snapshot to a data folder without a server."""

import sys

from services.retrieval.snapshots.restore import main

if __name__ == "__main__":
    sys.exit(main(program=f"python -m {__spec__.name}"))
