"""Logs: one line for each event, as JSON for machines or as text for terminals.

Lines of a call have its id and trace.
"""

import json
import logging
import re
import secrets
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

from services.rpc.settings import LogFormat, LogLevel

REQUEST_ID: Final = "x-request-id"
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
# The id of the current call and its trace, 32 hex digits or empty.
_call: ContextVar[tuple[str, str]] = ContextVar("call", default=("", ""))

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object with time, level, logger, event, and every `extra` field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormatter(logging.Formatter):
    """Formats a record as text: `12:00:01 info  ready address=127.0.0.1:50051`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record, with its traceback below."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(log_format: LogFormat, level: LogLevel) -> None:
    """Send all logs to standard error in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def begin_call(metadata: "Iterable[tuple[str, str | bytes]]", trace_id: str) -> str:
    """Return the id of a call: the caller's `x-request-id`, or a new one. Later log lines of this task have the id."""
    given = next((value for key, value in metadata if key == REQUEST_ID), "")
    request_id = given if isinstance(given, str) and _ID.fullmatch(given) else secrets.token_hex(8)
    _call.set((request_id, trace_id))
    return request_id


def caller() -> tuple[tuple[str, str], ...]:
    """Return the metadata that pass the current request id on to another service."""
    request_id = _call.get()[0]
    return ((REQUEST_ID, request_id),) if request_id else ()


def _extra(record: logging.LogRecord) -> dict[str, object]:
    request_id, trace_id = _call.get()
    fields = {"request_id": request_id} if request_id else {}
    if trace_id:
        fields["trace_id"] = trace_id
    return fields | {key: value for key, value in vars(record).items() if key not in _STANDARD}
