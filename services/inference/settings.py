"""Settings of servers that run models."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.inference.bundle import VariantName
from services.inference.scheduler import Limits
from services.rpc.settings import ServerSettings


class ModelServerSettings(ServerSettings):
    """Loading, batching and caching of models."""

    bundles: list[Path] = Field(default_factory=list)
    """Bundle folders to serve, each NAME/VERSION. In the environment as JSON: ["/bundles/all-MiniLM-L6-v2/1"]."""

    repository: Path | None = None
    """Folder of bundles, NAME/VERSION, from which LoadModel can load while the server runs. If unset, LoadModel is
    rejected."""

    variant: VariantName | Literal["auto"] = "auto"
    """Graph to run. `auto` selects the one that the export found fastest among those that keep parity."""

    threads: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256)
    """Concurrent batches of each lane, one thread each. Default: the number of cores that this process may use."""

    max_batch_tokens: int = Field(512, ge=16, le=2**20)
    """Most tokens of a batch, including padding. On a CPU core, 512 tokens of MiniLM take a tenth less time per token
    than 2,048, because they stay in its cache (loadtest/BENCHMARKS.md). On a GPU use 16,384 or more."""

    max_batch_rows: int = Field(64, ge=1, le=4096)
    """Most rows of a batch."""

    cache_entries: int = Field(10_000, ge=0)
    """Most cached outputs, which answer equal inputs. 0 disables the cache."""

    cache_bytes: int = Field(64 * 2**20, ge=0)
    """Most bytes of cached outputs. 64 MiB hold 43,000 dense vectors of 384 dimensions, or the token vectors of 220
    documents."""

    token_cache_bytes: int = Field(16 * 2**20, ge=0)
    """Most bytes of recent texts that are cached with their token ids, so that a document is not tokenized again when
    it is reranked again. 16 MiB hold 20,000 passages of 90 tokens. At most `cache_entries` texts are kept."""

    max_text_bytes: int = Field(65_536, ge=1, le=2**24)
    """Largest text, in bytes of UTF-8."""

    stuck_s: float = Field(5.0, ge=0.1, le=3600)
    """Seconds after which a batch counts as stuck, if it also takes 10 times longer than expected (50 times in the bulk
    lane). The server is not ready until the batch ends. A stuck batch is noticed within 10 s by default."""

    golden_check_s: float = Field(60.0, ge=0, le=86_400)
    """Seconds between golden checks while serving, in a thread of the lowest priority. 0 checks only after a batch has
    failed. A check runs about ten short texts, so one per minute takes a thousandth of a core."""

    @model_validator(mode="after")
    def _something_to_serve(self) -> Self:
        if not self.bundles and self.repository is None:
            raise ValueError("expected --bundles, or a --repository to load from, got neither")
        return self

    @property
    def limits(self) -> Limits:
        """The settings of the batch scheduler."""
        return Limits(
            threads=self.threads,
            max_batch_tokens=self.max_batch_tokens,
            max_batch_rows=self.max_batch_rows,
            cache_entries=self.cache_entries,
            cache_bytes=self.cache_bytes,
            token_cache_bytes=self.token_cache_bytes,
            stuck_s=self.stuck_s,
        )
