"""Settings of the gateway, with the prefix SLUICE_GATEWAY_."""

from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.rpc.settings import ServerSettings

_ADDRESS: Final = r"^([a-z]+:///?)?.+:\d{1,5}$|^unix:.+$"
_SCRAPED: Final = r"^[a-z][a-z0-9_-]{0,63}=[^/@\s]+:\d{1,5}$"


class GatewaySettings(ServerSettings):
    """The settings of a gateway."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_GATEWAY_")

    listen: str = Field("127.0.0.1:8080", pattern=r"^.+:\d{1,5}$")
    """Address to serve HTTP on: HOST:PORT. Port 0 takes a free port; the log message `ready` contains it."""

    orchestrator: str = Field("127.0.0.1:50050", pattern=_ADDRESS)
    """Address of the orchestrator. If the name has several addresses, calls are spread over them."""

    embedding: str = Field("127.0.0.1:50051", pattern=_ADDRESS)
    """Address of the embedding service."""

    retrieval: str = Field("127.0.0.1:50052", pattern=_ADDRESS)
    """Address of the retrieval service."""

    reranking: str = Field("127.0.0.1:50053", pattern=_ADDRESS)
    """Address of the reranking service."""

    inner_routes: Literal["follow", "open"] = "follow"
    """Whether a gateway without `tokens` opens the routes to embedding, retrieval and reranking. `follow` opens them
    while the orchestrator accepts calls without a token. `open` always opens them, for a gateway without an
    orchestrator."""

    scrape: list[Annotated[str, Field(pattern=_SCRAPED)]] = Field([], max_length=64)
    """Metrics endpoints that the console shows, each NAME=HOST:PORT, for example embedding=10.0.0.7:9090. The gateway
    reads no other endpoints."""

    hosts: list[str] = Field([], max_length=64)
    """Host names that requests may use in the Host header, without the port. Empty allows all names, except on a
    loopback address: there only loopback names are allowed, which protects against DNS rebinding by web pages."""

    max_body_bytes: int = Field(16 * 2**20, ge=1024, le=2**30)
    """Largest body of a request, in bytes. Streams of documents are not limited, but each line has this limit / 16."""

    max_head_bytes: int = Field(32_768, ge=1024, le=2**20)
    """Largest request line and headers together, in bytes."""

    head_timeout_s: float = Field(10.0, gt=0, le=600)
    """Longest time until the headers of a request are complete, in seconds: from the start of the connection for its
    first request, and from the first byte for later ones."""

    max_body_values: int = Field(500_000, ge=1000, le=100_000_000)
    """Most values and keys in the JSON of a body. A body of 16 MiB can have millions of them, and each takes 10 to 30
    times its size in memory. A line of a stream of documents has this limit / 16."""

    max_held_bytes: int = Field(256 * 2**20, ge=2**20, le=2**40)
    """Most memory for the bodies of all requests together, in bytes: received bytes, parsed JSON, and unacknowledged
    documents of streams. A request beyond this limit gets status 503."""

    max_answer_bytes: int = Field(96 * 2**20, ge=2**20, le=2**40)
    """Most memory for the responses over 64 KiB of all requests together, in bytes. Beyond this limit, a response that
    has not been read for a second is aborted. If all are being read, the new request gets status 503."""

    write_timeout_s: float = Field(30.0, gt=0, le=3600)
    """Longest time that a client may take to read the next 64 KiB of a response, in seconds. After that, the connection
    is aborted."""

    body_timeout_s: float = Field(30.0, gt=0, le=3600)
    """Longest time to receive a body, in seconds. For a stream of documents, the longest time between two parts."""

    keep_alive_s: float = Field(75.0, ge=1, le=3600)
    """Seconds that a connection may be idle between requests. The default is above the 60 s of most load balancers."""

    max_connections: int = Field(1024, ge=1, le=65_536)
    """Most connections at once. Requests beyond them get status 503."""

    max_inputs: int = Field(2048, ge=1, le=65_536)
    """Most texts in a request to embed. The default is OpenAI's limit. More than 256 texts take several calls."""

    max_text_bytes: int = Field(65_536, ge=1, le=2**24)
    """Largest query and largest text to embed or rerank, in bytes of UTF-8. The gateway rejects larger ones. Must not
    be below the limits of the embedding and reranking services."""

    interactive_inputs: int = Field(32, ge=0, le=2048)
    """Requests with at most this many texts run in the interactive lane. Larger ones are bulk work."""

    def scraped(self) -> dict[str, str]:
        """Return the addresses of the metrics endpoints by name."""
        return dict(item.split("=", 1) for item in self.scrape)
