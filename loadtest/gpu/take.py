#!/usr/bin/env python3
"""Unpack one part on the GPU machine.

    python3 part-1/take.py [FOLDER]

FOLDER is /tmp/sluice-gpu by default. It is outside the checkout, so that the parts that come later find it. Needs
Python 3.11.4 or newer and no packages.
"""

import hashlib
import json
import lzma
import shutil
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

PART = Path(__file__).resolve().parent


def main() -> None:
    """Unpack the part that this script lies in, and print which parts are there."""
    started = time.monotonic()
    home = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/sluice-gpu")  # noqa: S108 - the caller may name another
    index = json.loads((PART / "index.json").read_text())
    for folder in (home, home / "pieces", home / "taken"):
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(take, home), index["files"]))
    (home / "taken" / f"{index['number']}of{index['count']}").touch()
    have = sorted(path.name for path in (home / "taken").iterdir())
    print(f"took part {index['number']} in {time.monotonic() - started:.1f} s; taken: {', '.join(have)}", flush=True)


def take(home: Path, entry: dict[str, Any]) -> None:
    """Check a file of the part, and unpack it once all its pieces are there. Exits when the file is damaged."""
    content = (PART / entry["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise SystemExit(f"{entry['file']} is damaged: its SHA-256 is not {entry['sha256']}; copy the part again")
    key = hashlib.sha256(entry["name"].encode()).hexdigest()[:16]
    if entry["of"] > 1:
        (home / "pieces" / f"{key}.{entry['piece']}").write_bytes(content)
        paths = [home / "pieces" / f"{key}.{at}" for at in range(entry["of"])]
        if not all(path.exists() for path in paths):
            return
        content = b"".join(path.read_bytes() for path in paths)
    target = home / entry["name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = home / "pieces" / key
    whole.write_bytes(content)
    with lzma.open(whole) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 2**20)
    whole.unlink()
    if entry["name"] == "small.tar":
        with tarfile.open(target) as tar:
            tar.extractall(home, filter="data")


if __name__ == "__main__":
    main()
