"""Speed of the graphs in one process: by shape of the batch, with CUDA graphs, and with several threads."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from graphs import VARIANTS, Batch, full_batch, open_graph, shapes
from kit import ON_CPU, manifest
from results import median_s, record


def inprocess() -> None:
    """Record tokens per second of each graph: with arrays as Sluice runs it, bound to GPU memory, as CUDA graphs."""
    for variant in VARIANTS:
        try:
            session = open_graph(variant)
        except Exception as error:
            record("inprocess", variant=variant, failed=str(error)[:300])
            continue
        for rows, length in shapes()[:4] if variant == "int8" else shapes():
            _record_shape(session, variant, rows, length)
    if not ON_CPU:
        for variant in ("fp16", "packed"):
            _record_cuda_graphs(variant)
    _record_threads()


def _record_shape(session: Any, variant: str, rows: int, length: int) -> None:
    batch = full_batch(session, rows, length)
    modes: dict[str, Callable[[], object]] = {"arrays": lambda: session.run(None, batch)}
    if not ON_CPU:
        modes["bound"] = _bound(session, batch)
    for mode, run in modes.items():
        _record_speed(run, variant=variant, mode=mode, rows=rows, length=length)


def _record_speed(run: Callable[[], object], *, rows: int, length: int, **case: object) -> None:
    """Record the speed of a run, or why it failed."""
    fields = {**case, "rows": rows, "length": length}
    try:
        seconds = median_s(run, seconds=0.25)
    except Exception as error:
        record("inprocess", **fields, failed=str(error)[:200])
    else:
        record("inprocess", **fields, ms=seconds * 1e3, tokens_per_s=rows * length / seconds)


def _bound(session: Any, batch: Batch) -> Callable[[], object]:
    """Return a run with inputs and outputs in GPU memory: without the cost of copies."""
    import onnxruntime as ort

    binding = session.io_binding()
    for name, array in batch.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _record_cuda_graphs(variant: str) -> None:
    """Record small batches as CUDA graphs, which replay all launches of a shape as one."""
    for rows, length in ((1, 16), (1, 64), (8, 64), (64, 64), (256, 64)):
        try:
            run = _cuda_graph(variant, rows, length)
        except Exception as error:
            record("inprocess", variant=variant, mode="cuda graph", failed=str(error)[:200])
            return
        _record_speed(run, variant=variant, mode="cuda graph", rows=rows, length=length)


def _cuda_graph(variant: str, rows: int, length: int) -> Callable[[], object]:
    import onnxruntime as ort

    session = open_graph(variant, {"enable_cuda_graph": "1"})
    binding = session.io_binding()
    for name, array in full_batch(session, rows, length).items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    shape = (rows, manifest()["dimensions"])
    vectors = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, vectors)
    return lambda: session.run_with_iobinding(binding)


def _record_threads() -> None:
    """Record threads that share one session, and threads with a session each: what overlapping batches gives."""
    variant = "fp32" if ON_CPU else "fp16"
    for rows in (4,) if ON_CPU else (64, 256):
        for count in (1, 2) if ON_CPU else (1, 2, 4, 8):
            _record_overlap("one", [open_graph(variant)] * count, variant, rows)
            if count > 1:
                _record_overlap("each", [open_graph(variant) for _ in range(count)], variant, rows)


def _record_overlap(label: str, sessions: list[Any], variant: str, rows: int) -> None:
    batch = full_batch(sessions[0], rows, 50)
    for session in sessions:
        session.run(None, batch)
    end = time.perf_counter() + (0.2 if ON_CPU else 1.0)

    def run(session: Any) -> int:
        runs = 0
        while time.perf_counter() < end:
            session.run(None, batch)
            runs += 1
        return runs

    started = time.perf_counter()
    with ThreadPoolExecutor(len(sessions)) as pool:
        runs = sum(pool.map(run, sessions))
    seconds = time.perf_counter() - started
    record(
        "threads",
        variant=variant,
        rows=rows,
        length=50,
        threads=len(sessions),
        sessions=label,
        tokens_per_s=runs * rows * 50 / seconds,
    )
