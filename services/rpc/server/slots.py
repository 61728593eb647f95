"""A bounded number of slots. A newcomer who finds all of them taken gets the place of the oldest holder.

Rule: no clock and no I/O. Every ticket that `acquire` returns is given back with `release` exactly once.

Nearly nobody is refused: a client that watches health and is refused counts the server as down, while one whose watch
ends after an answer calls again at once. An attacker who takes all places therefore loses them to the next caller.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count


@dataclass
class Slots:
    """The holders of the places, oldest first, of all connections and of each."""

    most: int
    """Slots in all."""
    most_each: int
    """Slots of one connection."""
    _all: OrderedDict[int, str] = field(default_factory=OrderedDict)
    """Holders by ticket, with their connection."""
    _each: dict[str, OrderedDict[int, None]] = field(default_factory=dict)
    """Holders of each connection."""
    _retired: dict[int, str] = field(default_factory=dict)
    _retired_each: dict[str, int] = field(default_factory=dict)
    _tickets: Iterator[int] = field(default_factory=count)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def retired(self) -> int:
        """Number of holders that lost their place and have not left."""
        return len(self._retired)

    def acquire(self, connection: str) -> tuple[int, int | None] | None:
        """Return the ticket of a new holder, and that of the holder who must go, if any; the latter is retired.

        None when so many of the connection are retired and have not left as it may have places: it lets none of its
        calls end, so it gets no more.

        connection  what the limit of one connection applies to; with "" only the limit of all applies
        """
        if connection and self._retired_each.get(connection, 0) >= self.most_each:
            return None
        own = self._each.setdefault(connection, OrderedDict())
        displaced: int | None = None
        if connection and len(own) >= self.most_each:
            displaced = next(iter(own))
        elif len(self._all) >= self.most:
            displaced = next(iter(self._all))
        ticket = next(self._tickets)
        self._all[ticket] = connection
        own[ticket] = None
        if displaced is not None:
            self.retire(displaced)
        return ticket, displaced

    def retire(self, ticket: int) -> None:
        """Free the place of a holder that has not left yet. Does nothing when that was done."""
        connection = self._remove(ticket)
        if connection is not None:
            self._retired[ticket] = connection
            self._retired_each[connection] = self._retired_each.get(connection, 0) + 1

    def release(self, ticket: int) -> None:
        """Forget a holder."""
        if self._remove(ticket) is None:
            connection = self._retired.pop(ticket)
            self._retired_each[connection] -= 1
            if not self._retired_each[connection]:
                del self._retired_each[connection]

    def _remove(self, ticket: int) -> str | None:
        connection = self._all.pop(ticket, None)
        if connection is not None:
            own = self._each[connection]
            del own[ticket]
            if not own:
                del self._each[connection]
        return connection
