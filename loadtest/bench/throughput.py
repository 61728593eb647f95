"""Benchmark of how much of the hardware's limit the model servers reach over gRPC.

The limit is the same graph in-process with perfectly sorted batches.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Final

from sluice.cli.console import CommandFailed, err

from loadtest.bench.closed_loop import EMBED, RERANK, Driven, all_of, embed_requests, rerank_requests
from loadtest.bench.in_process import InProcess, Pass, flops_per_token, gemm_flops
from loadtest.bench.setup import Setup, alternate, ratio
from loadtest.load import scrape
from loadtest.servers import Server, server

# Size and number of concurrent calls: 256 texts wait, enough for batches of similar length.
_BATCH: Final = 32
_CALLERS: Final = 8
_PASS_S: Final = 15.0
_WARM_UP_TEXTS: Final = 64
_BULK: Final = ("--max-deadline-s", "600", "--cache-entries", "0")


def embed(plan: Setup) -> None:
    """Measure passages embedded per second over gRPC ÷ the same graph in-process with perfectly sorted batches."""
    limit = InProcess(plan.bundle, plan.variant, plan.threads)
    passages = _shuffled(plan.texts().passages)
    passages = passages[: _count(limit, passages, plan)]
    rows = limit.texts(passages)
    with server("embedding", "--bundles", str(plan.bundle), "--variant", plan.variant, *_BULK) as one:
        all_of(one.address, EMBED, embed_requests(passages[:_WARM_UP_TEXTS], _BATCH, "bulk"), _CALLERS)
        requests = embed_requests(passages, _BATCH, "bulk")
        before = scrape.read(one.metrics)
        results = alternate(
            plan.rounds,
            {
                "gRPC": lambda: _rows(all_of(one.address, EMBED, requests, _CALLERS), len(rows)),
                "in-process": lambda: _per_second(limit.run(rows)),
            },
        )
        _report(plan, one, limit, len(rows), sum(len(row.ids) for row in rows), results, before)


def rerank(plan: Setup) -> None:
    """Measure pairs scored per second over gRPC ÷ the same graph in-process with perfectly sorted batches.

    A bi-encoder is served as late interaction; the limit is then that of encoding the documents.
    """
    texts = plan.texts()
    limit = InProcess(plan.bundle, plan.variant, plan.threads)
    if limit.manifest.task == "bi_encoder":
        if "multi_vector" not in limit.manifest.representations:
            raise CommandFailed(f"{plan.bundle}: expected a cross-encoder or a bundle with multi_vector, got neither")
        limit = InProcess(plan.bundle, plan.variant, plan.threads, ["multi_vector"])
    query, passages = texts.queries[0], _shuffled(texts.passages)
    passages = passages[: _count(limit, passages, plan)]
    rows = limit.pairs(query, passages) if limit.manifest.task == "cross_encoder" else limit.texts(passages)
    with server("reranking", "--bundles", str(plan.bundle), "--variant", plan.variant, *_BULK) as one:
        all_of(one.address, RERANK, rerank_requests(query, passages[:_WARM_UP_TEXTS], _BATCH), _CALLERS)
        requests = rerank_requests(query, passages, _BATCH)
        before = scrape.read(one.metrics)
        results = alternate(
            plan.rounds,
            {
                "gRPC": lambda: _rows(all_of(one.address, RERANK, requests, _CALLERS), len(rows)),
                "in-process": lambda: _per_second(limit.run(rows)),
            },
        )
        _report(plan, one, limit, len(rows), sum(len(row.ids) for row in rows), results, before)


def variants(plan: Setup) -> None:
    """Measure passages embedded per second over gRPC by one graph of a bundle ÷ by fp32."""
    plan = replace(plan, name=f"variant-{plan.variant}")
    passages = _shuffled(plan.texts().passages)
    passages = passages[: _count(InProcess(plan.bundle, "fp32", plan.threads), passages, plan)]
    requests = embed_requests(passages, _BATCH, "bulk")
    common = ("--bundles", str(plan.bundle), *_BULK)
    with (
        server("embedding", *common, "--variant", plan.variant) as ours,
        server("embedding", *common, "--variant", "fp32") as fp32,
    ):
        for one in (ours, fp32):
            all_of(one.address, EMBED, requests[:2], _CALLERS)
        results = alternate(
            plan.rounds,
            {
                plan.variant: lambda: _rows(all_of(ours.address, EMBED, requests, _CALLERS), len(passages)),
                "fp32": lambda: _rows(all_of(fp32.address, EMBED, requests, _CALLERS), len(passages)),
            },
        )
    speed = ratio(results[plan.variant], results["fp32"])
    rows = [[name, "texts/s", f"{median(values):.1f}"] for name, values in results.items()]
    plan.report(
        ("graph", "unit", "median"),
        [*rows, [f"{plan.variant} ÷ fp32", "", f"{speed:.2f}"]],
        {"texts_per_s": results, "ratio": speed},
    )


def _count(limit: InProcess, passages: list[str], plan: Setup) -> int:
    """Return the number of passages for a pass of the wanted length, and choose the in-process batch size."""
    sample = limit.texts(passages[:128])
    tokens_per_s = limit.choose(sample)
    rows_per_s = tokens_per_s * len(sample) / sum(len(row.ids) for row in sample)
    count = min(len(passages), max(256, int(rows_per_s * plan.seconds(_PASS_S))))
    err.print(f"  {count} passages, in-process batches of {limit.batch_tokens} tokens", style="dim")
    return count


def _report(  # noqa: PLR0913, PLR0917 - everything to report
    plan: Setup,
    one: Server,
    limit: InProcess,
    rows: int,
    tokens: int,
    results: dict[str, list[float]],
    before: scrape.Sample,
) -> None:
    speed = ratio(results["gRPC"], results["in-process"])
    per_row = tokens / rows
    flops = gemm_flops()
    per_token = flops_per_token(plan.bundle)
    of_peak = median(results["in-process"]) * per_row * per_token / flops if per_token else None
    padding = scrape.padding_share(before, scrape.read(one.metrics)) or 0.0
    memory = one.memory_bytes()
    table = [
        [name, "rows/s", f"{median(values):.1f}", f"{median(values) * per_row:.0f}"] for name, values in results.items()
    ]
    table += [
        ["gRPC ÷ in-process", "", f"{speed:.3f}", ""],
        ["in-process ÷ GEMM peak", "", f"{of_peak:.2f}" if of_peak else "unknown", ""],
        ["padding", "share of tokens", f"{padding:.1%}", ""],
        ["server memory", "MiB", f"{memory / 2**20:.0f}", ""],
    ]
    figures = {
        "rows": rows,
        "tokens": tokens,
        "rows_per_s": results,
        "ratio": speed,
        "gemm_flops": flops,
        "in_process_share_of_gemm_peak": of_peak,
        "in_process_batch_tokens": limit.batch_tokens,
        "padding_share": padding,
        "server_memory_bytes": memory,
        "call": {"batch": _BATCH, "callers": _CALLERS, "lane": "bulk"},
    }
    plan.report(("", "unit", "median", "tokens/s"), table, figures)


def _rows(driven: Driven, rows: int) -> float:
    return rows / driven.seconds


def _per_second(done: Pass) -> float:
    return done.rows / done.seconds


def _shuffled(texts: Sequence[str]) -> list[str]:
    """Return the texts in a fixed random order: mixed lengths, not sorted by topic."""
    listed = list(texts)
    random.Random(1).shuffle(listed)  # noqa: S311
    return listed
