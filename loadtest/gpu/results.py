"""Results of the measurements: lines of JSON in `results.jsonl`, printed as well."""

import json
import time
from collections.abc import Callable

import numpy as np

from kit import ON_CPU, OUT


def record(step: str, **fields: object) -> None:
    """Print a result and append it to `results.jsonl`."""
    OUT.mkdir(parents=True, exist_ok=True)
    line = {"step": step, **fields}
    with (OUT / "results.jsonl").open("a") as file:
        file.write(json.dumps(line, default=float) + "\n")
    print("  ".join(f"{key}={_shown(value)}" for key, value in line.items()), flush=True)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def median_s(run: Callable[[], object], *, seconds: float = 0.4, least: int = 5, warm: int = 3) -> float:
    """Return the median time in seconds of a call that returns when its work is done.

    seconds  repeat for at least this long
    least    repeat at least this often
    warm     calls before that, which are not timed
    """
    for _ in range(1 if ON_CPU else warm):
        run()
    times: list[float] = []
    end = time.perf_counter() + (0.05 if ON_CPU else seconds)
    while len(times) < (2 if ON_CPU else least) or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return float(np.median(times))
