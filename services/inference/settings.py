"""What a server that runs models can be told, beyond what every server can."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.inference.bundle import VariantName
from services.inference.scheduler import Limits
from services.rpc.settings import ServerSettings


class ModelServerSettings(ServerSettings):
    """How models are loaded, batched and cached."""

    bundles: list[Path] = Field(default_factory=list)
    """Bundle folders to serve, each NAME/VERSION. In the environment as JSON: ["/bundles/all-MiniLM-L6-v2/1"]."""

    repository: Path | None = None
    """Folder of bundles, NAME/VERSION, that LoadModel may load while the server runs; without it none are."""

    variant: VariantName | Literal["auto"] = "auto"
    """Graph to run; `auto` takes the one that export found fastest among those that keep parity."""

    threads: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256)
    """Batches that run at once in each lane, one thread each. Default: one a core this process may use."""

    max_batch_tokens: int = Field(512, ge=16, le=2**20)
    """Most tokens of a batch, padding included. On a core, 512 tokens of MiniLM take a tenth less time a token than
    2,048, because they stay in its cache (loadtest/BENCHMARKS.md); on a GPU give 16,384 or more."""

    max_batch_rows: int = Field(64, ge=1, le=4096)
    """Most rows of a batch."""

    cache_entries: int = Field(10_000, ge=0)
    """Most recent outputs kept for equal inputs; 0 keeps none."""

    cache_bytes: int = Field(64 * 2**20, ge=0)
    """Most bytes of outputs kept. 64 MiB is 43,000 dense vectors of 384, or 220 documents' token vectors."""

    token_cache_bytes: int = Field(16 * 2**20, ge=0)
    """Most bytes of recent texts kept with their token ids, so that a document that is reranked again is not tokenised
    again. 16 MiB is 20,000 passages of 90 tokens. At most `cache_entries` of them."""

    max_text_bytes: int = Field(65_536, ge=1, le=2**24)
    """Largest text, in bytes of UTF-8."""

    stuck_s: float = Field(5.0, ge=0.1, le=3600)
    """A batch that takes longer than this, and 10 times longer than expected (50 times in the bulk lane), counts as
    stuck, and the server as not ready until it ends. 5 s are seen within 10."""

    golden_check_s: float = Field(60.0, ge=0, le=86_400)
    """Seconds between golden checks while serving, in a thread that gives way to all work; 0 checks only after a batch
    failed. A check runs some ten short texts, so once a minute takes a thousandth of a core."""

    @model_validator(mode="after")
    def _something_to_serve(self) -> Self:
        if not self.bundles and self.repository is None:
            raise ValueError("expected --bundles, or a --repository to load from, got neither")
        return self

    @property
    def limits(self) -> Limits:
        """The part that the engine reads."""
        return Limits(
            threads=self.threads,
            max_batch_tokens=self.max_batch_tokens,
            max_batch_rows=self.max_batch_rows,
            cache_entries=self.cache_entries,
            cache_bytes=self.cache_bytes,
            token_cache_bytes=self.token_cache_bytes,
            stuck_s=self.stuck_s,
        )
