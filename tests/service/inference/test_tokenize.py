"""Repeated texts are not tokenized again, and new texts that would be late are rejected before they are tokenized."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from sluice.errors import Unavailable

from services.inference.bundle import open_bundle
from services.inference.cache import Cache
from services.inference.cost import Cost
from services.inference.loader import Model
from services.inference.scheduler import BatchScheduler, Lane, Limits, Schedule
from services.inference.session import Session
from services.inference.tokenizer import Tokenizer

LIMITS = Limits(threads=1, max_batch_tokens=256, max_batch_rows=8, cache_entries=100, cache_bytes=2**20)
QUICK = Cost(overhead_tokens=10, seconds_per_token=1e-6)
# A model so slow that nothing is done within a minute.
SLOW = Cost(overhead_tokens=10, seconds_per_token=60)
TEXTS = ["the river washes ore", "a channel with riffles"]


def within(seconds: float, lane: Lane = "interactive") -> Schedule:
    return Schedule(lane, monotonic() + seconds)


@contextmanager
def model_of(folder: Path, cost: Cost, *, token_cache_bytes: int = 2**20) -> Iterator[Model]:
    bundle = open_bundle(folder)
    session = Session(bundle, "fp32")
    tokenizer = Tokenizer(folder / "tokenizer.json", max_token_count=64)
    scheduler = BatchScheduler(session, cost, LIMITS, model="tiny")
    yield Model(
        bundle, tokenizer, session, scheduler, seen=Cache(max_entries=LIMITS.cache_entries, max_bytes=token_cache_bytes)
    )
    scheduler.close()


async def test_cached_ids_are_those_of_the_tokenizer(tiny_bi_encoder: Path) -> None:
    with model_of(tiny_bi_encoder, QUICK) as model:
        expected = model.tokenizer.tokenize(TEXTS)
        assert await model.tokenize(TEXTS, within(300)) == expected
        assert len(model.seen) == 2
        mixed = [TEXTS[1], "something new", TEXTS[0]]
        assert await model.tokenize(mixed, within(300)) == model.tokenizer.tokenize(mixed)


async def test_bulk_texts_are_not_cached(tiny_bi_encoder: Path) -> None:
    with model_of(tiny_bi_encoder, QUICK) as model:
        await model.tokenize(TEXTS, within(60, "bulk"))
        assert len(model.seen) == 0


async def test_cached_texts_stay_within_their_limit(tiny_bi_encoder: Path) -> None:
    with model_of(tiny_bi_encoder, QUICK, token_cache_bytes=2000) as model:
        for number in range(50):
            await model.tokenize([f"text number {number}"], within(300))
        assert 0 < model.seen.bytes <= 2000


async def test_late_new_texts_are_rejected_and_cached_texts_are_answered(
    tiny_bi_encoder: Path,
) -> None:
    with model_of(tiny_bi_encoder, SLOW) as model:
        known = await model.tokenize(TEXTS, within(10_000))
        assert await model.tokenize(TEXTS, within(30)) == known
        with pytest.raises(Unavailable) as caught:
            await model.tokenize([*TEXTS, "something new"], within(30))
        assert caught.value.reason_name == "OVERLOADED"
        assert len(model.seen) == 2
