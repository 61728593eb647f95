"""sentence-transformers in one process, called once per request, as a service without batching would.

Reads a line of JSON for each measurement, {"texts": ..., "callers": ..., "seconds": ..., "threads": ...}, and writes
one: {"calls": ..., "seconds": ..., "latencies_s": ..., "memory_bytes": ..., "vector": ...}. Without `callers` all
texts are encoded at once, and the answer is {"texts_per_s": ...}.
"""

import json
import sys
import threading
import time
from itertools import count
from typing import Any

import psutil
import torch
from sentence_transformers import SentenceTransformer


def measure(model: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """A closed loop of callers that encode one text at a time."""
    torch.set_num_threads(wanted["threads"])
    texts, latencies_s, numbers = wanted["texts"], list[float](), count()
    start = time.perf_counter()

    def caller() -> None:
        while time.perf_counter() < start + wanted["seconds"]:
            text = texts[next(numbers) % len(texts)]
            sent = time.perf_counter()
            model.encode([text], show_progress_bar=False)
            latencies_s.append(time.perf_counter() - sent)

    threads = [threading.Thread(target=caller) for _ in range(wanted["callers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "calls": len(latencies_s),
        "seconds": time.perf_counter() - start,
        "latencies_s": latencies_s,
        "memory_bytes": psutil.Process().memory_info().rss,
        "vector": model.encode([texts[0]], show_progress_bar=False)[0].tolist(),
    }


def bulk(model: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """All texts at once, sorted and batched by the library itself: its limit."""
    torch.set_num_threads(wanted["threads"])
    start = time.perf_counter()
    model.encode(wanted["texts"], batch_size=32, show_progress_bar=False)
    return {"texts_per_s": len(wanted["texts"]) / (time.perf_counter() - start)}


def main() -> None:
    """Answer lines until there are none."""
    model = SentenceTransformer(sys.argv[1], device="cpu")
    for line in sys.stdin:
        wanted = json.loads(line)
        sys.stdout.write(json.dumps(measure(model, wanted) if "callers" in wanted else bulk(model, wanted)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
