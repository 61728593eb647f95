"""Settings from flags and the environment, validated as a whole before the server starts.

Rule: no other module reads the environment.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

LogFormat = Literal["json", "human"]
LogLevel = Literal["debug", "info", "warning", "error"]

_SERVICES: Final = ("EMBEDDING", "RETRIEVAL", "RERANKING", "ORCHESTRATOR", "GATEWAY")
# Read by the client and the command line, not by servers.
_CLIENT_NAMES: Final = frozenset(
    {
        "SLUICE_ADDRESS",
        "SLUICE_HOME",
        "SLUICE_RETRIEVAL_ADDRESS",
        "SLUICE_TLS_CA",
        "SLUICE_TLS_CERTIFICATE",
        "SLUICE_TLS_KEY",
        "SLUICE_TOKEN",
    }
)


class ServerSettings(BaseSettings):
    """Settings of every server. A setting's environment variable is its prefix and its name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    listen: str = Field("127.0.0.1:0", pattern=r"^(.+:\d{1,5}|unix:.+)$")
    """Address to serve on: HOST:PORT, or unix:PATH. With port 0 the server picks a free port and logs it in the line
    `ready`."""

    metrics_listen: str = Field("", pattern=r"^(|.+:\d{1,5})$")
    """Address of the Prometheus metrics page, HOST:PORT. Empty: no metrics page."""

    log_format: LogFormat = "json"
    """Format of log lines: `json` for machines, `human` for terminals."""

    log_level: LogLevel = "info"
    """Lowest level that is logged."""

    max_deadline_s: float = Field(30.0, gt=0, le=3600)
    """Longest time that one call may take, in seconds. Also the deadline of calls that set none."""

    max_message_bytes: int = Field(16 * 2**20, ge=2**16, le=2**30)
    """Largest message that is accepted or sent, in bytes. 16 MiB is twice the size of 1,024 documents of 8 KiB with a
    vector of 384 dimensions each."""

    drain_delay_s: float = Field(0.0, ge=0, le=300)
    """Seconds between reporting unhealthy and rejecting new calls after SIGTERM, so that load balancers notice."""

    drain_grace_s: float = Field(10.0, ge=0, le=3600)
    """Seconds that calls in progress may still take after SIGTERM."""

    health_listen: str = Field("", pattern=r"^(|.+:\d{1,5})$")
    """Address, HOST:PORT, of a second port that serves only health checks, always in plain text and without tokens.
    Kubernetes probes need it if the server uses TLS. Empty: health is served only at `listen`."""

    health: Literal["open", "token"] = "open"
    """Access to health checks at `listen`: `open` to everyone, or only with a `token`."""

    reflection: Literal["open", "token", "off"] = "open"
    """Access to gRPC reflection: `open` to everyone, only with a `token`, or `off`."""

    tls_certificate: Path | None = None
    """PEM file of this server's certificate with its chain. If set, the server and its metrics page use TLS only.
    Reloaded when the file changes."""

    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a passphrase."""

    tls_client_ca: Path | None = None
    """PEM file of certificate authorities. If set, callers must present a certificate signed by one of them (mTLS)."""

    downstream_tls_ca: Path | None = None
    """PEM file of the certificate authorities of the servers that this server calls. If set, calls use TLS and present
    `tls_certificate`. Otherwise calls use plain text."""

    tokens: Path | None = None
    """YAML file of the hashed bearer tokens that callers may use; `sluice token` creates one. If unset, no token is
    required. Reloaded when the file changes."""

    reload_s: float = Field(2.0, ge=0.01, le=3600)
    """Seconds between checks for changed files: certificates, tokens, pipelines. A changed file is used if it is valid.
    An invalid one is logged, and the previous version stays in use."""

    otlp_endpoint: str = Field("", pattern=r"^(|https?://[^@]+|[^/@]+:\d{1,5})$")
    """Collector that receives traces by OTLP over gRPC: http://HOST:PORT, or https:// with a publicly trusted
    certificate. Empty: no tracing. Needs the extra `tracing`."""

    trace_ratio: float = Field(1.0, ge=0, le=1)
    """Share of calls that are traced, among calls whose caller has not decided it."""

    max_calls: int = Field(4096, ge=1, le=1_000_000)
    """Most concurrent calls of all callers together. Further calls are rejected with RESOURCE_EXHAUSTED. A waiting call
    holds its request in memory, so 4,096 calls of usual size use about 100 MB. Health and reflection calls do not
    count."""

    max_open_calls: int = Field(1000, ge=1, le=1_000_000)
    """Most concurrent health and reflection calls, which need no token and do not count towards `max_calls`. Beyond it,
    the oldest ends with UNAVAILABLE. A health watch uses about 20 KB. Raise it if more clients than this watch the
    server's health."""

    max_open_connection_calls: int = Field(32, ge=1, le=1_000_000)
    """Most concurrent health and reflection calls of one connection. Beyond it, the oldest of the connection ends. A
    client has one health watch for each service that it calls. Raise it if many clients share one connection through a
    proxy."""

    max_watch_s: float = Field(1200.0, gt=0, le=86_400)
    """Longest duration of a health watch, in seconds. It then ends with UNAVAILABLE, and clients start another. The
    default is longer than `max_connection_age_s`, which ends watches without being noticed by clients."""

    compression: bool = False
    """Accept compressed requests (gzip, deflate). If off, they are rejected with UNIMPLEMENTED before they are
    decompressed. If on, `max_message_bytes` limits only the compressed size: gRPC decompresses a message completely
    before it checks the limit, and gzip compresses up to 1,000 times, so a message of 16 MiB can use 16 GiB of memory.
    Turn it on only for trusted callers."""

    max_connections: int = Field(4096, ge=1, le=1_000_000)
    """Most concurrent connections. Further connections are closed. Each uses a file descriptor and about 50 KiB."""

    max_connection_calls: int = Field(512, ge=1, le=1_000_000)
    """Most concurrent calls of one connection. Further calls wait at the caller or are rejected with UNAVAILABLE. An
    open call uses about 12 KB in gRPC, even while it is rejected."""

    max_metadata_bytes: int = Field(16_384, ge=4096, le=2**20)
    """Largest metadata of a call, in bytes. A token and a trace use 200 bytes. The default is that of gRPC."""

    max_connection_age_s: float = Field(600.0, ge=0.1, le=86_400)
    """Seconds after which a connection is closed gracefully. Callers then resolve the name again, so that new replicas
    get their share of long-lived clients. The actual age varies by 10 %, so that not all callers reconnect at once."""

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected --tls-certificate and --tls-key together, got one of them")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("expected --tls-certificate and --tls-key together with --tls-client-ca, got neither")
        return self


S = TypeVar("S", bound=ServerSettings)


def load(cls: type[S], arguments: Sequence[str], *, program: str) -> S:
    """Return settings from flags, then the environment, then defaults.

    Exits with status 2 after printing every problem.
    """
    problems = unknown_names(cls, os.environ)
    try:
        settings = cls(_cli_parse_args=list(arguments), _cli_prog_name=f"python -m {program}")
    except ValidationError as error:
        problems += [_problem(cls, item) for item in error.errors()]
    except SettingsError as error:
        problems.append(str(error))
    else:
        if not problems:
            return settings
    for problem in problems:
        print(f"{program}: {problem}", file=sys.stderr)  # noqa: T201 - logging is not configured yet
    raise SystemExit(2)


def unknown_names(cls: type[ServerSettings], environment: Mapping[str, str]) -> list[str]:
    """Return a problem for each SLUICE_ variable that this server does not know, to detect misspelled names."""
    prefix = cls.model_config.get("env_prefix", "")
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    others = tuple(f"SLUICE_{service}_" for service in _SERVICES if f"SLUICE_{service}_" != prefix)
    return [
        f"{name}: unknown setting; `--help` lists all settings"
        for name in sorted(environment)
        if name.startswith("SLUICE_") and name not in known | _CLIENT_NAMES and not name.startswith(others)
    ]


def _problem(cls: type[ServerSettings], item: ErrorDetails) -> str:
    """Return what is wrong with a setting, by both of its names, such as `--listen (SLUICE_EMBEDDING_LISTEN)`."""
    if not item["loc"]:
        return item["msg"].removeprefix("Value error, ")
    name = str(item["loc"][0])
    where = f"--{name.replace('_', '-')} ({cls.model_config.get('env_prefix', '')}{name.upper()})"
    return f"{where}: {item['msg']}, got {item['input']!r}"
