"""The interface of an attack: steps against a running system, and bounds of what they may cost."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from loadtest.attacks.verdict import Bounds
from loadtest.servers import Server

COLLECTION: Final = "attacked"
NUMBER: Final = "number"
"""Filterable field with a number, which every document has."""
WORD: Final = "word"
"""Filterable field with a string."""
TAGS: Final = "tags"
"""Filterable field with a list of strings."""


@dataclass(frozen=True)
class Target:
    """The system under attack."""

    servers: Mapping[str, Server]
    health: Mapping[str, str]
    """Addresses that answer health checks alone, by server."""
    token: str
    """A bearer token that may read and write, without quota."""
    model: str
    """Name of the embedding model."""
    max_held_bytes: int
    """The gateway's setting."""
    guarded: Server | None = None
    """An embedding server that checks tokens itself, if the attack needs one."""
    quota_token: str = ""
    """A token with a quota, for `guarded`."""

    def address(self, name: str) -> str:
        """Return where a server serves."""
        return self.servers[name].address

    @property
    def authorization(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call by the bearer of the token."""
        return (("authorization", f"Bearer {self.token}"),)


@dataclass(frozen=True)
class Result:
    """What an attacker got for a step."""

    answers: Counter[str] = field(default_factory=Counter)
    """Answers by status: the name of a gRPC code or an HTTP status. `open` is a call that was left unanswered."""
    complaints: Sequence[str] = ()
    """What is wrong with the system after the step, beyond its memory and its answers."""


@dataclass(frozen=True)
class Step:
    """A part of an attack that is measured by itself."""

    name: str
    run: Callable[[], Result]
    """Sends the attack, and returns when it is over."""
    is_warm_up: bool = False
    """Whether it is ordinary work of the same amount. Growth counts from after it, and it is not measured."""
    ordinary: Callable[[], Result] | None = None
    """Ordinary work of the same amount, which runs before the step. Growth then counts from its peak, so that memory
    which work of this size takes in any case is not counted."""


class Attack(Protocol):
    """An attack. Its fields are its parameters, which the command line may change."""

    name: ClassVar[str]

    @property
    def seed(self) -> int:
        """What everything random is drawn from."""

    def bounds(self, target: Target) -> Bounds:
        """Return the bounds of its cost."""

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield the steps. Each is run and measured before the next is requested."""
