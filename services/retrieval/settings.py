"""Settings of the retrieval server: SLUICE_RETRIEVAL_*."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.rpc.settings import ServerSettings


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
