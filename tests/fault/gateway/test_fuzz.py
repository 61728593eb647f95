"""Thousands of odd requests to every route of the gateway's own description, and heads that are no HTTP.

Each must be answered, and never with a 500. FUZZ_REQUESTS says how many there are, FUZZ_SEED repeats a run.
"""

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.support.fuzzed_heads import head
from tests.support.fuzzed_http import Wire, described, request
from tests.support.gateway import gateway_of
from tests.support.system import System, running_system

REQUESTS: Final = int(os.environ.get("FUZZ_REQUESTS", "6000"))
SEED: Final = os.environ.get("FUZZ_SEED") or secrets.token_hex(4)


@pytest.fixture(scope="module")
def system(tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("fuzzed"), tiny_bi_encoder) as system:
        yield system


@contextmanager
def fuzzed(system: System, *arguments: str) -> Iterator[str]:
    """Yield the address of a gateway, whose log must have no internal error at the end."""
    with gateway_of(system, *arguments) as process:
        yield process.address
    defects = [line for line in process.log if "defect" in line.lower() or "Traceback" in line]
    assert not defects, f"seed {SEED}: {defects[:3]}"


@pytest.mark.slow
def test_no_request_gets_a_500_or_no_answer(system: System) -> None:
    random, seen = Random(f"requests {SEED}"), Counter[int]()
    with fuzzed(system) as address, Wire(address) as wire:
        operations = described(address)
        assert len(operations) >= 20
        for number in range(REQUESTS):
            sent = request(random, random.choice(operations), address)
            status = wire.status(sent)
            assert status not in (0, 500), f"seed {SEED}, request {number}: {status} for {sent[:2000]!r}"
            seen[status] += 1
    assert seen[200] > REQUESTS / 50, f"seed {SEED}: too few were valid: {seen}"
    assert seen[400] > REQUESTS / 10, f"seed {SEED}: too few were not: {seen}"


@pytest.mark.slow
def test_no_head_gets_a_500_or_no_answer(system: System) -> None:
    random, seen = Random(f"heads {SEED}"), Counter[int]()
    # Some heads and bodies never end: that is answered too.
    with fuzzed(system, "--head-timeout-s=0.2", "--body-timeout-s=0.2") as address:
        for number in range(REQUESTS // 6):
            sent = head(random, address)
            with Wire(address) as wire:
                status = wire.status(sent)
            assert status not in (0, 500), f"seed {SEED}, head {number}: {status} for {sent[:2000]!r}"
            seen[status] += 1
    assert {200, 400, 431} <= seen.keys(), f"seed {SEED}: {seen}"
