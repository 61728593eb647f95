"""sentence-transformers in one process, called once per request, like a service without batching.

    python -m loadtest.peers.unbatched CHECKPOINT embed|rerank

Reads a line of JSON for each measurement and writes one:

    {"jobs": ..., "callers": ..., "seconds": ..., "threads": ...} -> {"calls", "seconds", "latencies_s", "memory_bytes"}
    {"bulk": [text, ...], "threads": ...}                         -> {"per_second"}: sorted and batched by the library
    {"one": job, "threads": ...}                                  -> {"values"}: a vector, or scores
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import psutil
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

Call = Callable[[Any], Any]


def measure(call: Call, wanted: dict[str, Any]) -> dict[str, Any]:
    """Run a closed loop of callers, one job at a time."""
    jobs, latencies_s, numbers = wanted["jobs"], list[float](), count()
    start = time.perf_counter()

    def caller() -> None:
        while time.perf_counter() < start + wanted["seconds"]:
            job = jobs[next(numbers) % len(jobs)]
            sent = time.perf_counter()
            call(job)
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
    }


def bulk(model: Any, texts: list[str]) -> dict[str, Any]:
    """Encode all texts at once: the library's limit."""
    start = time.perf_counter()
    model.encode(texts, batch_size=32, show_progress_bar=False)
    return {"per_second": len(texts) / (time.perf_counter() - start)}


def main() -> None:
    """Answer input lines until the input ends."""
    checkpoint, task = sys.argv[1:]
    model: Any = (SentenceTransformer if task == "embed" else CrossEncoder)(checkpoint, device="cpu")

    def call(job: Any) -> Any:
        if task == "embed":
            return model.encode([job], show_progress_bar=False)[0]
        query, documents = job
        return model.predict([(query, document) for document in documents], show_progress_bar=False)

    for line in sys.stdin:
        wanted = json.loads(line)
        torch.set_num_threads(wanted["threads"])
        if "one" in wanted:
            answer = {"values": call(wanted["one"]).tolist()}
        else:
            answer = bulk(model, wanted["bulk"]) if "bulk" in wanted else measure(call, wanted)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
