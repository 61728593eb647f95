"""Embedding servers under load: by how they are started, by number of callers, and several on one GPU."""

import contextlib
import subprocess
import time
from collections.abc import Iterator

import numpy as np

from callers import Load, Seen, drive, embed_requests
from kit import ON_CPU, OUT
from results import record
from servers import FITTED, VARIANT, Launch, Server, serving

_FITTED = ("--variant", VARIANT, "--threads", "2", *FITTED)
_NO_MODEL = Launch(_FITTED, shims=("--kit-null",))
_LAUNCHES = {
    "defaults": Launch(("--variant", "auto")),
    # As k8s/components/gpu starts it.
    "k8s": Launch(("--threads", "1", "--max-batch-tokens", "16384", "--max-batch-rows", "64")),
    "fitted": Launch(_FITTED),
    "fitted, packed": Launch(_FITTED, "packed"),
    "no model": _NO_MODEL,
}
_CALLERS = (1, 4) if ON_CPU else (1, 64, 256)
_BULK_CALLERS = (4,) if ON_CPU else (8, 64)
_QUERY_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=utilization.gpu,power.draw,memory.used",
    "--format=csv,noheader,nounits",
    "-lms",
    "250",
)


def service() -> None:
    """Record throughput, latency and processor time of servers, and profile the event loop of one."""
    one = embed_requests(1, 64 if ON_CPU else 8192, "interactive")
    many = embed_requests(32, 16 if ON_CPU else 1024, "bulk")
    loads = [*(Load(one, callers, 1) for callers in _CALLERS), *(Load(many, callers, 32) for callers in _BULK_CALLERS)]
    for label, launch in ({"no model": _NO_MODEL} if ON_CPU else _LAUNCHES).items():
        try:
            with serving(launch) as server:
                _record_model(label, server)
                drive([server.address], Load(many, 8, 32, 1))
                for load in loads:
                    _measure(label, server, load)
        except Exception as error:
            record("service", server=label, failed=str(error)[-1200:])
    _profile(Load(many, 4 if ON_CPU else 64, 32))


def _record_model(label: str, server: Server) -> None:
    names = ("execution_provider", "variant", "tokens_per_second", "overhead_tokens")
    record("service", server=label, ready_s=server.ready_s, **{name: server.model(name) for name in names})


def _measure(label: str, server: Server, load: Load) -> None:
    """Record what callers see, and what the server and the GPU did meanwhile."""
    before, cpu_s, began = server.metrics(), server.cpu_s(), time.monotonic()
    with gpu_watched() as gpu:
        seen = drive([server.address], load)
    wall_s = time.monotonic() - began
    after, cpu_s = server.metrics(), server.cpu_s() - cpu_s
    batches, model_s = (
        after.get(name, 0) - before.get(name, 0)
        for name in ("sluice_inference_seconds_count", "sluice_inference_seconds_sum")
    )
    texts = load.texts_per_call * seen.codes.get("OK", 0)
    record(
        "service",
        server=label,
        callers=load.callers,
        texts_per_call=load.texts_per_call,
        **seen.fields(),
        cpu_us_per_text=1e6 * cpu_s / max(texts, 1),
        cores=cpu_s / wall_s,
        model_share=model_s / wall_s,
        batch_ms=1e3 * model_s / max(batches, 1),
        texts_per_batch=texts / max(batches, 1),
        **gpu,
    )


def _profile(load: Load) -> None:
    """Record a server under a profiler, and print where its event loop spends its time."""
    written = OUT / "profile-loop.txt"
    with serving(Launch(_FITTED, shims=("--kit-profile", str(written)))) as server:
        record("service", server="profiled", **drive([server.address], load).fields())
    print("\n".join(written.read_text().splitlines()[:40]) if written.exists() else "no profile was written")


def processes() -> None:
    """Record several servers on one GPU, with the callers distributed over them."""
    many = embed_requests(32, 16 if ON_CPU else 1024, "bulk")
    launch = Launch(("--variant", VARIANT, "--threads", "1", *FITTED))
    for count in (1,) if ON_CPU else (1, 2, 4, 8):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(serving(launch)) for _ in range(count)]
            with gpu_watched() as gpu:
                seen: Seen = drive([server.address for server in servers], Load(many, 16 * count, 32))
            record("processes", servers=count, **seen.fields(), **gpu)


@contextlib.contextmanager
def gpu_watched() -> Iterator[dict[str, float]]:
    """Yield a dictionary that has the GPU's load, power in watts and memory in MiB when the block has ended."""
    found: dict[str, float] = {}
    if ON_CPU:
        yield found
        return
    process = subprocess.Popen(_QUERY_NVIDIA_SMI, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own arguments
    try:
        yield found
    finally:
        process.terminate()
        lines = process.communicate()[0].splitlines()[4:]  # the first second warms up
        with contextlib.suppress(ValueError, IndexError):  # the last line may be cut off
            rows = np.array([[float(cell) for cell in line.split(",")] for line in lines])
            busy, watts, _ = rows.mean(axis=0)
            found |= {"gpu_busy": float(busy) / 100, "watts": float(watts), "gpu_mib": float(rows[-1][2])}
