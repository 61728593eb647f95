"""sentence-transformers on the same GPU, with the machine's own packages and nothing of Sluice's."""

import time
from typing import Any

import numpy as np

from graphs import shapes, token_ids
from kit import CHECKPOINT, HOME, ON_CPU, manifest
from results import median_s, record
from texts import passages, texts_of


def peer() -> None:
    """Record sentence-transformers in half precision with torch's scaled dot product attention."""
    import torch
    from sentence_transformers import SentenceTransformer

    settings = {"dtype": torch.float32 if ON_CPU else torch.float16, "attn_implementation": "sdpa"}
    model = SentenceTransformer(str(CHECKPOINT), device="cpu" if ON_CPU else "cuda", model_kwargs=settings)
    model.max_seq_length = manifest()["max_token_count"]
    _record_parity(model)
    with torch.inference_mode():
        for rows, length in shapes():
            _record_forward(model, rows, length)
    _record_encode(model)


def _record_parity(model: Any) -> None:
    reference = np.load(HOME / "data/reference.npz")
    some = slice(0, 8 if ON_CPU else None)
    vectors = model.encode(reference["texts"][some].tolist(), batch_size=32)
    cosines = (vectors * reference["vectors"][some]).sum(1) / np.linalg.norm(vectors, axis=1)
    record("peer", worst=float(1 - cosines.min()))


def _record_forward(model: Any, rows: int, length: int) -> None:
    import torch

    ids = torch.from_numpy(token_ids(rows, length)).to(model.device)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def run() -> None:
        model({**features})["sentence_embedding"].cpu()

    seconds = median_s(run, seconds=0.25)
    record("peer", mode="forward", rows=rows, length=length, ms=seconds * 1e3, tokens_per_s=rows * length / seconds)


def _record_encode(model: Any) -> None:
    natural = passages(4 if ON_CPU else 4096)
    encoded = model.tokenizer(natural, truncation=True, max_length=manifest()["max_token_count"])
    short = texts_of(50, 4 if ON_CPU else 8192)
    cases = (("natural", natural, sum(map(len, encoded["input_ids"]))), ("50 tokens", short, 50 * len(short)))
    for size in (32,) if ON_CPU else (32, 128, 512, 1024):
        for name, texts, tokens in cases:
            model.encode(texts[:size], batch_size=size)
            started = time.perf_counter()
            model.encode(texts, batch_size=size)
            seconds = time.perf_counter() - started
            speeds = {"texts_per_s": len(texts) / seconds, "tokens_per_s": tokens / seconds}
            record("peer", mode="encode", texts=name, batch=size, **speeds)
