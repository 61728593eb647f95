"""The command `python -m services.retrieval.restore`: makes a data folder of a snapshot, without a server."""

import sys

from services.retrieval.snapshots.restore import main

if __name__ == "__main__":
    sys.exit(main(program=f"python -m {__spec__.name}"))
