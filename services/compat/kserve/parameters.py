"""Parameters of a request: each known by name, of one kind, and read once."""

from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from sluice.kserve.v2 import inference_service_pb2 as pb

from services.inference.scheduler import Lane, Schedule
from services.inference.tokenizer import Truncation
from services.rpc.deadline import Deadline
from services.rpc.server.interceptor import Context
from services.rpc.validation import Violations, shown

Value = bool | int | float | str

TRUNCATIONS: Final[Mapping[str, Truncation]] = {"END": "end", "START": "start", "NONE": "refuse"}
# What every model takes. The last asks for a mark on the answers of a stream, which is always there.
_COMMON: Final = ("priority", "timeout", "truncate", "triton_enable_empty_final_response")
_KINDS: Final[Mapping[type, str]] = {bool: "a truth value", int: "an integer", str: "a text"}


class Parameters:
    """The parameters of one request; what is wrong with them is noted."""

    def __init__(self, given: Mapping[str, pb.InferParameter], known: tuple[str, ...], violations: Violations) -> None:
        self._violations = violations
        self._values: dict[str, Value] = {}
        if not violations.count("parameters", len(given), low=0, high=len(_COMMON) + len(known), what="parameters"):
            return
        for name, parameter in given.items():
            kind = parameter.WhichOneof("parameter_choice")
            if name not in (*_COMMON, *known):
                expected = ", ".join((*known, *_COMMON[:-1]))
                violations.add("parameters", f"expected some of {expected}, got {shown(name)}")
            elif kind is None:
                violations.add(f"parameters[{name}]", "expected a value, got none")
            else:
                self._values[name] = getattr(parameter, kind)

    def read(self, name: str, kind: type, default: Any) -> Any:
        """The value of a parameter; the default when it is not given, or noted because it is of another kind."""
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not kind:
            self._violations.add(f"parameters[{name}]", f"expected {_KINDS[kind]}, got {_shown(value)}")
            return default
        return value

    def choice(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """What the text of a parameter stands for."""
        text = self.read(name, str, default)
        if text not in choices:
            expected = ", ".join(filter(None, choices))
            self._violations.add(f"parameters[{name}]", f"expected one of {expected}, got {shown(text)}")
            return choices[default]
        return choices[text]

    @property
    def truncation(self) -> Truncation:
        """What to do with texts that are too long."""
        found: Truncation = self.choice("truncate", TRUNCATIONS, "END")
        return found

    def schedule(self, context: Context, *, max_s: float) -> Schedule:
        """When it may run: `priority` 0 and 1 mean interactive, others bulk; `timeout` is in microseconds."""
        priority, timeout_us = self.read("priority", int, 0), self.read("timeout", int, 0)
        for name, value in (("priority", priority), ("timeout", timeout_us)):
            if value < 0:
                self._violations.add(f"parameters[{name}]", f"expected 0 or more, got {value}")
        lane: Lane = "interactive" if priority <= 1 else "bulk"
        at = Deadline.of(context, default_s=max_s).at
        return Schedule(lane, min(at, monotonic() + timeout_us / 1e6) if timeout_us > 0 else at)


def _shown(value: Value) -> str:
    return shown(value) if isinstance(value, str) else repr(value)
