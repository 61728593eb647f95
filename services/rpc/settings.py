"""Settings from the environment and from flags, checked as a whole before anything starts.

Rule: nothing else reads the environment.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from services.rpc.logs import LogFormat, LogLevel

_SERVICES: Final = ("EMBEDDING", "RETRIEVAL", "RERANKING", "ORCHESTRATOR", "GATEWAY")
# Read by the client and the command line, not by servers.
_CLIENT_NAMES: Final = frozenset({"SLUICE_ADDRESS", "SLUICE_HOME", "SLUICE_RETRIEVAL_ADDRESS"})


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


S = TypeVar("S", bound=ServerSettings)


def load(cls: type[S], arguments: Sequence[str], *, program: str) -> S:
    """Settings from flags, then environment, then defaults. Exits with status 2 after printing every problem."""
    problems = unknown_names(cls, os.environ)
    try:
        settings = cls(_cli_parse_args=list(arguments), _cli_prog_name=f"python -m {program}")
    except ValidationError as error:
        problems += [f"{_where(cls, item['loc'])}: {item['msg']}, got {item['input']!r}" for item in error.errors()]
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


def _where(cls: type[ServerSettings], location: tuple[int | str, ...]) -> str:
    """A setting by both its names: `--port (SLUICE_EMBEDDING_PORT)`."""
    name = str(location[0]) if location else "settings"
    return f"--{name.replace('_', '-')} ({cls.model_config.get('env_prefix', '')}{name.upper()})"
