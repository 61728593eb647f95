"""What a server does without its GPU: none at the start, a broken context while serving, no free memory."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from callers import Load, drive, embed_requests, run_forked
from kit import ON_CPU, OUT, environment
from results import record
from servers import FITTED, VARIANT, Launch, serving

_TAKE_MEMORY = """
import time
import torch
free, _ = torch.cuda.mem_get_info()
taken = torch.empty(free - 600 * 2**20, dtype=torch.uint8, device="cuda")
print("full", flush=True)
time.sleep(60)
"""
_HEALTH_TIMEOUT_S = 2.0


def lost() -> None:
    """Record status codes, readiness and liveness in each case."""
    _start_without("no GPU visible", Launch((), extra={"CUDA_VISIBLE_DEVICES": ""}))
    _start_without("no CUDA libraries", Launch((), libraries=False))
    requests = embed_requests(4, 64, "interactive")
    _break_context(requests)
    if not ON_CPU:
        _take_memory(requests)


def _start_without(label: str, launch: Launch) -> None:
    try:
        with serving(launch) as server:
            provider = str(server.model("execution_provider"))
            verdict = "serves on a processor" if "CPU" in provider else "serves"
            record("lost", case=label, provider=provider, ready=_health(server.address, ""), verdict=verdict)
    except Exception as error:
        record("lost", case=label, verdict="does not start", why=str(error)[-300:])


def _break_context(requests: Sequence[bytes]) -> None:
    trigger = OUT / "fault"
    trigger.unlink(missing_ok=True)
    load = Load(requests, 4, 4, 1)
    with serving(Launch(("--variant", VARIANT), shims=("--kit-fault", str(trigger)))) as server:
        record("lost", case="broken while serving", before=drive([server.address], load).fields())
        trigger.touch()
        for _ in range(5):
            codes, alive = drive([server.address], load).codes, server.is_alive
            states = {name or "ready": _health(server.address, name) for name in ("", "liveness")} if alive else {}
            record("lost", case="broken while serving", codes=codes, alive=alive, **states)
            if not alive:
                break
        (OUT / "lost.log").write_text(server.log.read_text()[-200_000:])


def _take_memory(requests: Sequence[bytes]) -> None:
    with serving(Launch(("--variant", VARIANT, *FITTED))) as server:
        drive([server.address], Load(requests, 2, 4, 1))
        load = Load(embed_requests(256, 64, "bulk"), 16, 256, 3)
        taker = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", _TAKE_MEMORY], stdout=subprocess.PIPE, text=True, env=environment(project=False)
        )
        assert taker.stdout
        taker.stdout.readline()
        record("lost", case="others took the memory", **drive([server.address], load).fields())
        taker.terminate()
        taker.wait()
        seen = drive([server.address], load)
        record("lost", case="memory is free again", **seen.fields(), ready=_health(server.address, ""))


def _health(address: str, name: str) -> str:
    """Return the health status of a name, or the status code of the call."""
    [status] = run_forked([partial(_check_health, address, name)], 10 * _HEALTH_TIMEOUT_S)
    return status


def _check_health(address: str, name: str) -> str:
    return asyncio.run(_ask_health(address, name))


async def _ask_health(address: str, name: str) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=name)
        try:
            response = await health.Check(request, timeout=_HEALTH_TIMEOUT_S)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        except grpc.aio.AioRpcError as error:
            return error.code().name
