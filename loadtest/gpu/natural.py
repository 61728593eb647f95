"""Real texts of all lengths through Sluice's own Session, in one process: the most that a server could reach."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kit import ON_CPU, bundle_folder
from patching import replace
from results import record
from texts import passages

if TYPE_CHECKING:
    from services.inference.session import Session
    from services.inference.tokenizer import Input


def natural() -> None:
    """Record tokens per second by order of the texts and size of the batches."""
    for name in ("plain",) if ON_CPU else ("plain", "packed"):
        _measure_bundle(name)


def _measure_bundle(name: str) -> None:
    from services.inference.bundle import open_bundle
    from services.inference.session import Session
    from services.inference.tokenizer import Tokenizer

    bundle = open_bundle(bundle_folder(name))
    tokenizer = Tokenizer(bundle.folder / "tokenizer.json", max_token_count=bundle.manifest.max_token_count)
    texts = passages(6 if ON_CPU else 4096)
    started = time.perf_counter()
    token_ids = tokenizer.tokenize(texts)
    tokenizing_s = time.perf_counter() - started
    rows = [tokenizer.single(ids, "end") for ids in token_ids]
    tokens = sum(len(row.ids) for row in rows)
    session = Session(bundle, "fp32" if ON_CPU else "fp16")
    record(
        "natural",
        bundle=name,
        texts=len(rows),
        tokens=tokens,
        tokenizer_tokens_per_s=tokens / tokenizing_s,
        provider=session.execution_provider,
    )
    for order, ordered in (("sorted", sorted(rows, key=lambda row: len(row.ids))), ("shuffled", rows)):
        for most in (512,) if ON_CPU else (4096, 16384, 65536):
            _measure_batches(session, _batches(ordered, most), bundle=name, order=order, batch_tokens=most)


def _measure_batches(session: "Session", batches: list[list["Input"]], **case: object) -> None:
    _run(session, batches[: 1 if ON_CPU else 3])
    started = time.perf_counter()
    arrays_s = _run(session, batches)
    seconds = time.perf_counter() - started
    tokens = sum(len(row.ids) for batch in batches for row in batch)
    share = arrays_s / seconds
    record("natural", **case, batches=len(batches), tokens_per_s=tokens / seconds, share_of_time_making_arrays=share)


def _batches(rows: Sequence["Input"], most: int) -> list[list["Input"]]:
    """Return rows in batches of at most this many tokens, padding included."""
    batches: list[list[Input]] = [[]]
    longest = 0
    for row in rows:
        longest = max(longest, len(row.ids))
        if batches[-1] and longest * (len(batches[-1]) + 1) > most:
            batches.append([])
            longest = len(row.ids)
        batches[-1].append(row)
    return batches


def _run(session: "Session", batches: Sequence[Sequence["Input"]]) -> float:
    """Run batches, and return the seconds that making their arrays took."""
    spent = 0.0
    original = session._feeds

    def timed(*given: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        try:
            return original(*given)
        finally:
            spent += time.perf_counter() - started

    replace(session, "_feeds", timed)
    try:
        for batch in batches:
            session.run(batch, ["dense"])
    finally:
        replace(session, "_feeds", original)
    return spent
