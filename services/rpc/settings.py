"""Settings from the environment and from flags, checked as a whole before anything starts.

Rule: nothing else reads the environment.
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
    """What every server can be told. The environment name of a setting is its prefix and its name in capitals."""

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
    """Address to serve on: HOST:PORT, or unix:PATH. Port 0 takes a free one, which the log line `ready` names."""

    metrics_listen: str = Field("", pattern=r"^(|.+:\d{1,5})$")
    """Address of the Prometheus metrics, HOST:PORT; empty serves none."""

    log_format: LogFormat = "json"
    """`json` for machines, `human` for eyes."""

    log_level: LogLevel = "info"
    """Least level that is logged."""

    max_deadline_s: float = Field(30.0, gt=0, le=3600)
    """Longest time one call may take, in seconds; used as the deadline of callers that set none."""

    max_message_bytes: int = Field(16 * 2**20, ge=2**16, le=2**30)
    """Largest message accepted or sent. 16 MiB holds 1,024 documents of 8 KiB with a 384-d vector each, twice over."""

    drain_delay_s: float = Field(0.0, ge=0, le=300)
    """Seconds between turning unhealthy and refusing calls after SIGTERM: time for load balancers to notice."""

    drain_grace_s: float = Field(10.0, ge=0, le=3600)
    """Seconds that calls in flight may still take after SIGTERM."""

    health_listen: str = Field("", pattern=r"^(|.+:\d{1,5})$")
    """Address, HOST:PORT, of a second door for health checks alone, always in plain text and without a token: the
    probes of Kubernetes speak no TLS. Empty opens none: health is then asked where the service serves."""

    health: Literal["open", "token"] = "open"
    """Who may ask for health where the service serves: `open` for all, `token` for bearers of a token."""

    reflection: Literal["open", "token", "off"] = "open"
    """Who may ask which services and messages there are; `off` does not serve reflection."""

    tls_certificate: Path | None = None
    """PEM file of this server's certificate, with its chain. With it the server speaks TLS alone, and so does the
    metrics page. Read again when it changes."""

    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a pass phrase."""

    tls_client_ca: Path | None = None
    """PEM file of authorities. With it, only callers with a certificate of one of them are let in (mTLS)."""

    downstream_tls_ca: Path | None = None
    """PEM file of the authorities of the servers that this one calls. With it they are called by TLS, and
    `tls_certificate` is shown to them; without it in plain text."""

    tokens: Path | None = None
    """YAML file of the bearer tokens that are let in, hashed: `sluice token` makes one. Without it no token is asked
    for. Read again when it changes."""

    reload_s: float = Field(2.0, ge=0.01, le=3600)
    """Seconds between looks at the files that may change: certificates, tokens, pipelines. A changed one is used when
    it is right, and told in the log when not."""

    otlp_endpoint: str = Field("", pattern=r"^(|https?://[^@]+|[^/@]+:\d{1,5})$")
    """Collector that traces are sent to by OTLP over gRPC: http://HOST:PORT, or https:// with public authorities.
    Empty traces nothing. Needs the extra `tracing`."""

    trace_ratio: float = Field(1.0, ge=0, le=1)
    """Share of the calls that are traced, of those whose caller did not decide it already."""

    max_calls: int = Field(4096, ge=1, le=1_000_000)
    """Most calls at a time, of all callers together; one more is refused as RESOURCE_EXHAUSTED. A call that waits holds
    its request, so this many of the usual size take some 100 MB. Calls of health and reflection do not count."""

    max_open_calls: int = Field(1000, ge=1, le=1_000_000)
    """Most calls of health and reflection at a time, which need no token; apart from `max_calls`. With one more, the
    oldest ends as UNAVAILABLE. A watch of health takes some 20 KB. Raise it when more clients than this check health
    by a watch."""

    max_open_connection_calls: int = Field(32, ge=1, le=1_000_000)
    """Most calls of health and reflection of one connection; with one more, its oldest ends. A client has one watch for
    each service it calls; raise it when many clients come through one proxy and share its connection."""

    max_watch_s: float = Field(1200.0, gt=0, le=86_400)
    """Longest time of one watch of health, in seconds; then it ends as UNAVAILABLE, and clients start another. Longer
    than `max_connection_age_s`, which ends watches without any client noticing."""

    compression: bool = False
    """Accept compressed requests (gzip, deflate). Off, they are refused as UNIMPLEMENTED before they are unpacked. On,
    only what callers send is bounded: gRPC unpacks a message whole before it looks at `max_message_bytes`, and gzip
    packs up to 1,000 times, so one message of 16 MiB can take 16 GiB of memory. For trusted callers alone."""

    max_connections: int = Field(4096, ge=1, le=1_000_000)
    """Most connections at a time; one more is closed. Each takes a file descriptor and some 50 KiB."""

    max_connection_calls: int = Field(512, ge=1, le=1_000_000)
    """Most calls at a time of one connection. One more waits at the caller, or is rejected as UNAVAILABLE. An open call
    takes about 12 KB in gRPC, also while it is rejected."""

    max_metadata_bytes: int = Field(16_384, ge=4096, le=2**20)
    """Largest metadata of a call. A token and a trace take 200 bytes, and gRPC's own default is as large."""

    max_connection_age_s: float = Field(600.0, ge=0.1, le=86_400)
    """Seconds after which a connection is closed kindly, so that callers look their name up again and new replicas get
    their share of long-lived clients. A tenth more or less, so that not all come at once."""

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected --tls-certificate and --tls-key together, got one of them")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("expected --tls-certificate and --tls-key beside --tls-client-ca, got neither")
        return self


S = TypeVar("S", bound=ServerSettings)


def load(cls: type[S], arguments: Sequence[str], *, program: str) -> S:
    """Settings from flags, then environment, then defaults. Exits with status 2 after printing every problem."""
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
    """A problem for each SLUICE_ name that no server reads, or that this one does not know: typos die at start."""
    prefix = cls.model_config.get("env_prefix", "")
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    others = tuple(f"SLUICE_{service}_" for service in _SERVICES if f"SLUICE_{service}_" != prefix)
    return [
        f"{name}: no such setting; `--help` lists them"
        for name in sorted(environment)
        if name.startswith("SLUICE_") and name not in known | _CLIENT_NAMES and not name.startswith(others)
    ]


def _problem(cls: type[ServerSettings], item: ErrorDetails) -> str:
    """What is wrong with a setting, by both its names: `--port (SLUICE_EMBEDDING_PORT)`; or with several together."""
    if not item["loc"]:
        return item["msg"].removeprefix("Value error, ")
    name = str(item["loc"][0])
    where = f"--{name.replace('_', '-')} ({cls.model_config.get('env_prefix', '')}{name.upper()})"
    return f"{where}: {item['msg']}, got {item['input']!r}"
