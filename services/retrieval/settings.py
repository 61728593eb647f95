"""Settings of the retrieval server, with the environment prefix SLUICE_RETRIEVAL_."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.rpc.settings import ServerSettings

_MILVUS_DEPTH_MAX = 16_384


class RetrievalSettings(ServerSettings):
    """Settings of one retrieval process."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_RETRIEVAL_")

    listen: str = Field("127.0.0.1:50052", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT or unix:PATH. Port 0 chooses a free port, which the log line `ready` contains."""

    data: Path = Path(".sluice/retrieval")
    """Data folder, created if missing. Only one process at a time can use it."""

    snapshots: Path | None = None
    """Folder for the snapshots of this server only, created if missing. On the same disk as the data, segments take no
    extra space, because they are links. Without it, requests for snapshots are rejected."""

    search_threads: int = Field(os.cpu_count() or 1, ge=1, le=1024)
    """Number of concurrent searches. The default is the number of processor cores, because a search keeps one core
    busy."""

    max_waiting_writes: int = Field(64, ge=1, le=100_000)
    """Maximum number of writes that wait for the single writer. More are rejected with UNAVAILABLE. A write takes up to
    100 ms, so 64 writes wait for a few seconds at most."""

    max_waiting_reads: int = Field(1024, ge=1, le=100_000)
    """Maximum number of reads that wait for a thread. More are rejected with UNAVAILABLE."""

    max_depth: int = Field(1000, ge=1, le=100_000)
    """Maximum number of candidates per query."""

    segment_documents: int = Field(20_000, ge=2)
    """Number of documents without an approximate index at which one is built in the background. Fewer documents are
    compared one by one, which is exact and takes a few ms. Building takes about 1 ms of one core per document."""

    recall_sample_every: int = Field(200, ge=0)
    """One in this many searches is repeated exactly in the background to measure live recall; 0 disables it."""

    max_collections: int = Field(256, ge=1, le=100_000)
    """Maximum number of collections."""

    engine: Literal["embedded", "milvus"] = "embedded"
    """Where documents are stored: `embedded` in the data folder of this process, or `milvus` in a Milvus server. With
    Milvus the process is stateless, and several can serve the same collections; it needs the extra `milvus`."""

    milvus_uri: str = Field("", pattern=r"^(|https?://[^/@]+|.+\.db)$")
    """Address of Milvus: http://HOST:PORT or https://HOST:PORT. To try it out, a path that ends in .db runs Milvus Lite
    in this process, which needs milvus-lite."""

    milvus_token: SecretStr = SecretStr("")
    """USER:PASSWORD or an API key for Milvus. Set it in the environment, because other users of the machine can see
    flags."""

    milvus_database: str = Field("", pattern=r"^(|[A-Za-z_][A-Za-z0-9_]{0,254})$")
    """Existing database in Milvus that holds the collections. Empty: the default database."""

    milvus_timeout_s: float = Field(10.0, gt=0, le=3600)
    """Timeout of one call to Milvus, in seconds. The deadline of the caller can end it sooner. Creating and dropping a
    collection takes a few seconds and is only limited by the deadline of the caller."""

    milvus_index: Literal["HNSW", "FLAT"] = "HNSW"
    """Index of dense fields in new collections. `HNSW` is approximate. `FLAT` compares all vectors and is the only one
    that supports `exact` requests."""

    min_free_bytes: int = Field(64 * 2**20, ge=0)
    """Minimum free space on the disk of the data folder, in bytes. With less, the server is not ready. A write of the
    largest message needs about 50 MB with its log and its checkpoint."""

    ready_unwritable: bool = False
    """Stay ready while the disk accepts no writes. Recommended for a single replica: if it is not ready, searches stop
    too."""

    @model_validator(mode="after")
    def _check_milvus(self) -> Self:
        if self.engine == "milvus" and not self.milvus_uri:
            raise ValueError("--engine milvus needs --milvus-uri (SLUICE_RETRIEVAL_MILVUS_URI)")
        if self.engine == "milvus" and self.max_depth > _MILVUS_DEPTH_MAX:
            raise ValueError(f"Milvus returns at most {_MILVUS_DEPTH_MAX:,} candidates; lower --max-depth")
        if self.engine == "milvus" and self.snapshots is not None:
            raise ValueError("--snapshots needs the embedded engine; with Milvus, use backups of Milvus")
        return self
