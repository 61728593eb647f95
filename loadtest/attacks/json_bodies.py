"""One JSON body of 16 MB that costs much more to parse."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from loadtest.attacks import http1
from loadtest.attacks.attack import COLLECTION, Result, Step, Target
from loadtest.attacks.verdict import Bounds

_ANSWER_S: Final = 60.0
# The field of each route that accepts the largest value; `%s` is the attack's value.
_ROUTES: Final = {
    "/v1/embeddings": '{"model": "MODEL", "input": %s}',
    "/v2/rerank": '{"model": "MODEL", "query": "q", "documents": %s}',
    "/embed": '{"inputs": %s}',
    "/tokenize": '{"inputs": %s}',
    "/decode": '{"ids": %s}',
    "/search": '{"query": "q", "more_queries": %s}',
    f"/documents?collection={COLLECTION}": "%s",
}
_KINDS: Final[Mapping[str, Callable[[int], str]]] = {
    "numbers": lambda size: _list("7", size),
    "keys": lambda size: "{" + ",".join(f'"k{number}":{number}' for number in range(size // 17)) + "}",
    "deep": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "string": lambda size: f'"{"x" * size}"',
    "strings": lambda size: _list('""', size),
    "arrays": lambda size: _list("[]", size),
    "objects": lambda size: _list("{}", size),
    "digits": lambda size: "1" * size,
    "escapes": lambda size: '"' + "\\u00e9" * (size // 6) + '"',
    "distinct": lambda size: f"[{','.join(f'{number}.5' for number in range(size // 10))}]",
}


@dataclass(frozen=True)
class JsonBodies:
    """One body of a kind, to one route after the other."""

    name: ClassVar[str] = "json"
    seed: int = 1
    size: int = 16 * 10**6
    """Bytes of a body: below the gateway's limit of 16 MiB."""
    kind: str = ""
    """Only this kind; empty takes all."""
    route: str = ""
    """Only this route; empty takes all."""

    def bounds(self, target: Target) -> Bounds:
        """For each body."""
        return Bounds(growth_mb=300, processor_s=1.0)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield each kind for each route."""
        for kind, make in _KINDS.items():
            if self.kind not in ("", kind):
                continue
            value = make(self.size)
            for route, around in _ROUTES.items():
                if self.route in ("", route.partition("?")[0]):
                    body = (around.replace("MODEL", target.model) % value).encode()
                    yield Step(f"{kind} to {route.partition('?')[0]}", partial(_send, target, route, body))


def _list(item: str, size: int) -> str:
    """As many of an item as fit, in a list of so many bytes."""
    return f"[{','.join([item] * (size // (len(item) + 1)))}]"


def _send(target: Target, route: str, body: bytes) -> Result:
    address = target.address("gateway")
    with http1.connect(address) as connection:
        http1.try_send(connection, http1.head(address, route, len(body), target.token) + body)
        return Result(Counter([http1.status(connection, _ANSWER_S)]))
