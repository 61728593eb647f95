"""Settings of the retrieval server: SLUICE_RETRIEVAL_*."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.rpc.settings import ServerSettings

_MILVUS_DEPTH_MAX = 16_384


class RetrievalSettings(ServerSettings):
    """How one retrieval process runs."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_RETRIEVAL_")

    listen: str = Field("127.0.0.1:50052", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. Port 0 takes a free one, which the log line `ready` names."""

    data: Path = Path(".sluice/retrieval")
    """Folder of the data; made when it is not there. One process at a time may use it."""

    snapshots: Path | None = None
    """Folder of the snapshots, of this server alone; made when it is not there. On the disk of the data, segments take
    no room there, being links. Without it snapshots are refused."""

    search_threads: int = Field(os.cpu_count() or 1, ge=1, le=1024)
    """Searches that run at the same time; default: one a processor core, since a search keeps a core busy."""

    max_waiting_writes: int = Field(64, ge=1, le=100_000)
    """Writes that may wait for the one writer; one more is refused with UNAVAILABLE. A write takes some ms to
    100 ms, so 64 wait for a few seconds at most."""

    max_waiting_reads: int = Field(1024, ge=1, le=100_000)
    """Reads that may wait for a thread; one more is refused with UNAVAILABLE."""

    max_depth: int = Field(1000, ge=1, le=100_000)
    """Most candidates a query may ask for."""

    segment_documents: int = Field(20_000, ge=2)
    """Documents that are compared one by one until an approximate index is built over them. Below, a search of all
    takes a few ms and is exact; building takes about 1 ms of a core a document, in the background."""

    recall_sample_every: int = Field(200, ge=0)
    """One search in this many is repeated exactly in the background, for the metric of live recall; 0 repeats none."""

    max_collections: int = Field(256, ge=1, le=100_000)
    """Most collections in the data folder."""

    engine: Literal["embedded", "milvus"] = "embedded"
    """What keeps the documents: `embedded`, this process in its data folder, or `milvus`, a Milvus elsewhere. With that
    the process has no state, and several may serve the same collections; it needs the extra `milvus`."""

    milvus_uri: str = Field("", pattern=r"^(|https?://[^/@]+|.+\.db)$")
    """Where Milvus is: http://HOST:PORT or https://HOST:PORT; a path that ends in .db runs Milvus Lite here, to try it
    out (it needs milvus-lite)."""

    milvus_token: SecretStr = SecretStr("")
    """USER:PASSWORD or an API key for Milvus. Better in the environment than in a flag, which others on the machine
    see."""

    milvus_database: str = Field("", pattern=r"^(|[A-Za-z_][A-Za-z0-9_]{0,254})$")
    """Database in Milvus to keep the collections in, which must be there; empty: its default one."""

    milvus_timeout_s: float = Field(10.0, gt=0, le=3600)
    """Longest wait for one answer of Milvus, in seconds; the caller's deadline may end it sooner. Not for creating and
    dropping a collection, which take some seconds and have the caller's time alone."""

    milvus_index: Literal["HNSW", "FLAT"] = "HNSW"
    """Index of dense fields in collections created from now on: `HNSW` is approximate, `FLAT` compares all, and alone
    can answer `exact` requests."""

    min_free_bytes: int = Field(64 * 2**20, ge=0)
    """Least room on the disk of the data folder, in bytes; with less the server is not ready. A write of the largest
    message, its log and its checkpoint take some 50 MB."""

    ready_unwritable: bool = False
    """Stay ready, for searches, while the disk takes no writes. A single replica had better: where nothing else can
    answer, to be not ready takes the searches away too."""

    @model_validator(mode="after")
    def _milvus_is_told(self) -> Self:
        if self.engine == "milvus" and not self.milvus_uri:
            raise ValueError("--engine milvus needs --milvus-uri (SLUICE_RETRIEVAL_MILVUS_URI)")
        if self.engine == "milvus" and self.max_depth > _MILVUS_DEPTH_MAX:
            raise ValueError(f"Milvus finds at most {_MILVUS_DEPTH_MAX:,} candidates: lower --max-depth")
        if self.engine == "milvus" and self.snapshots is not None:
            raise ValueError("--snapshots are of the embedded engine: with Milvus, use Milvus's own backups")
        return self
