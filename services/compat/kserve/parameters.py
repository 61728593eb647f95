"""Parameters of a request, each with a known name and one type."""

from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from sluice.kserve.v2 import inference_service_pb2 as pb

from services.inference.scheduler import Lane, Schedule
from services.inference.tokenizer import Truncation
from services.rpc.deadline import Deadline
from services.rpc.server.interceptor import Context
from services.rpc.validation import Violations, quote

Value = bool | int | float | str

TRUNCATIONS: Final[Mapping[str, Truncation]] = {"END": "end", "START": "start", "NONE": "refuse"}
# Parameters of every model. The last one requests a mark on the responses of a stream, which they always have.
_COMMON: Final = ("priority", "timeout", "truncate", "triton_enable_empty_final_response")
_KINDS: Final[Mapping[type, str]] = {bool: "a boolean", int: "an integer", str: "a string"}


class Parameters:
    """The parameters of one request. Adds violations for invalid ones."""

    def __init__(self, given: Mapping[str, pb.InferParameter], known: tuple[str, ...], violations: Violations) -> None:
        self._violations = violations
        self._values: dict[str, Value] = {}
        if not violations.count("parameters", len(given), low=0, high=len(_COMMON) + len(known), what="parameters"):
            return
        for name, parameter in given.items():
            kind = parameter.WhichOneof("parameter_choice")
            if name not in (*_COMMON, *known):
                expected = ", ".join((*known, *_COMMON[:-1]))
                violations.add("parameters", f"expected some of {expected}, got {quote(name)}")
            elif kind is None:
                violations.add(f"parameters[{name}]", "expected a value, got none")
            else:
                self._values[name] = getattr(parameter, kind)

    def read(self, name: str, kind: type, default: Any) -> Any:
        """Return the value of a parameter; the default if it is missing, or is invalid because it has another type."""
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not kind:
            self._violations.add(f"parameters[{name}]", f"expected {_KINDS[kind]}, got {_quote_value(value)}")
            return default
        return value

    def choice(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """Return the value that the text of a parameter stands for."""
        text = self.read(name, str, default)
        if text not in choices:
            expected = ", ".join(filter(None, choices))
            self._violations.add(f"parameters[{name}]", f"expected one of {expected}, got {quote(text)}")
            return choices[default]
        return choices[text]

    @property
    def truncation(self) -> Truncation:
        """Truncation of texts that are too long."""
        found: Truncation = self.choice("truncate", TRUNCATIONS, "END")
        return found

    def schedule(self, context: Context, *, max_s: float) -> Schedule:
        """Return lane and deadline: `priority` 0 and 1 mean interactive, others bulk; `timeout` is in microseconds."""
        priority, timeout_us = self.read("priority", int, 0), self.read("timeout", int, 0)
        for name, value in (("priority", priority), ("timeout", timeout_us)):
            if value < 0:
                self._violations.add(f"parameters[{name}]", f"expected 0 or more, got {value}")
        lane: Lane = "interactive" if priority <= 1 else "bulk"
        at = Deadline.of(context, default_s=max_s).at
        return Schedule(lane, min(at, monotonic() + timeout_us / 1e6) if timeout_us > 0 else at)


def _quote_value(value: Value) -> str:
    return quote(value) if isinstance(value, str) else repr(value)
