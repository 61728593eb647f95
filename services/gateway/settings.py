"""Settings of the gateway: SLUICE_GATEWAY_*."""

from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.rpc.settings import ServerSettings

_ADDRESS: Final = r"^([a-z]+:///?)?.+:\d{1,5}$|^unix:.+$"
_SCRAPED: Final = r"^[a-z][a-z0-9_-]{0,63}=[^/@\s]+:\d{1,5}$"


class GatewaySettings(ServerSettings):
    """How one gateway runs."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_GATEWAY_")

    listen: str = Field("127.0.0.1:8080", pattern=r"^.+:\d{1,5}$")
    """Address to serve HTTP on: HOST:PORT. Port 0 takes a free one, which the log line `ready` names."""

    orchestrator: str = Field("127.0.0.1:50050", pattern=_ADDRESS)
    """Address of the orchestrator; a name with several addresses is used in turn."""

    embedding: str = Field("127.0.0.1:50051", pattern=_ADDRESS)
    """Address of the embedding service."""

    retrieval: str = Field("127.0.0.1:50052", pattern=_ADDRESS)
    """Address of the retrieval service."""

    reranking: str = Field("127.0.0.1:50053", pattern=_ADDRESS)
    """Address of the reranking service."""

    inner_routes: Literal["follow", "open"] = "follow"
    """Who may use the routes to embedding, retrieval and reranking of a gateway without `tokens`: `follow` opens them
    only while the orchestrator answers calls without a token, `open` always: for a gateway without an orchestrator."""

    scrape: list[Annotated[str, Field(pattern=_SCRAPED)]] = Field([], max_length=64)
    """Metrics pages that the console draws, each NAME=HOST:PORT, e.g. embedding=10.0.0.7:9090. No others are read."""

    hosts: list[str] = Field([], max_length=64)
    """Names by which browsers may call: the Host header's, without the port. Empty allows all, but on a loopback
    address only its own names, so that no web page can reach the gateway by a name of its own (DNS rebinding)."""

    max_body_bytes: int = Field(16 * 2**20, ge=1024, le=2**30)
    """Largest body of a request, in bytes. Streams of documents have no end, but each line has this limit / 16."""

    max_head_bytes: int = Field(32_768, ge=1024, le=2**20)
    """Largest request line and headers together, in bytes."""

    head_timeout_s: float = Field(10.0, gt=0, le=600)
    """Longest time from a connection's start, or a request's first byte, to the end of its headers, in seconds."""

    max_body_values: int = Field(500_000, ge=1000, le=100_000_000)
    """Most values and keys in the JSON of one body. A body of 16 MiB can have millions, each of which takes 10 to 30
    times its bytes in memory. A line of a stream of documents has this limit / 16."""

    max_held_bytes: int = Field(256 * 2**20, ge=2**20, le=2**40)
    """Most bytes of bodies held at once, of all requests together: what came, what its JSON takes in memory, and the
    documents of streams that are not acknowledged yet. A request beyond it is answered with 503."""

    max_answer_bytes: int = Field(96 * 2**20, ge=2**20, le=2**40)
    """Most bytes of answers held at once, of all requests together, each over 64 KiB. Beyond it an answer that was not
    read for a second is cut, or the new request gets 503 when all are being read."""

    write_timeout_s: float = Field(30.0, gt=0, le=3600)
    """Longest time a caller may take to read the next 64 KiB of its answer, in seconds; then its connection is cut."""

    body_timeout_s: float = Field(30.0, gt=0, le=3600)
    """Longest time for a body to arrive, in seconds; of a stream of documents, between two parts of it."""

    keep_alive_s: float = Field(75.0, ge=1, le=3600)
    """Seconds that a connection may be idle between requests. Above the 60 s that load balancers keep theirs."""

    max_connections: int = Field(1024, ge=1, le=65_536)
    """Most connections at once; more are answered with 503."""

    max_inputs: int = Field(2048, ge=1, le=65_536)
    """Most texts in one request to embed. 2,048 is what OpenAI takes. More than 256 are sent on in several calls."""

    max_text_bytes: int = Field(65_536, ge=1, le=2**24)
    """Largest text to embed, tokenize or rank, and largest query, in bytes of UTF-8. Larger ones are refused here and
    not sent on. Not below what the embedding and reranking services take."""

    interactive_inputs: int = Field(32, ge=0, le=2048)
    """Most texts of a request that still goes before bulk work."""

    def scraped(self) -> dict[str, str]:
        """The addresses of metrics pages by name."""
        return dict(item.split("=", 1) for item in self.scrape)
