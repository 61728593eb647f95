"""A limited number of slots. When all are taken, a new holder displaces the oldest one.

Rule: no clock and no I/O. Every ticket that `acquire` returns is passed to `release` exactly once.

Displacement avoids rejections: a client whose health watch is rejected considers the server down, whereas a client
whose watch ends after a response starts another immediately. An attacker that takes all slots therefore loses them to
the next callers.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count


@dataclass
class Slots:
    """The holders of the slots, oldest first, in total and by connection."""

    most: int
    """Slots in total."""
    most_each: int
    """Slots of one connection."""
    _all: OrderedDict[int, str] = field(default_factory=OrderedDict)
    """Connection of each holder, by ticket."""
    _each: dict[str, OrderedDict[int, None]] = field(default_factory=dict)
    """Holders of each connection."""
    _retired: dict[int, str] = field(default_factory=dict)
    _retired_each: dict[str, int] = field(default_factory=dict)
    _tickets: Iterator[int] = field(default_factory=count)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def retired(self) -> int:
        """Number of holders that lost their slot and have not released it yet."""
        return len(self._retired)

    def acquire(self, connection: str) -> tuple[int, int | None] | None:
        """Return the ticket of a new holder, and that of the displaced holder, if any, which is retired.

        Return None if a connection has as many retired holders as it may have slots: its calls do not end, so it gets
        no more.

            connection  connection to which `most_each` applies; with "" only the total limit applies
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
        """Free the slot of a holder that has not released it yet. Does nothing if it is retired already."""
        connection = self._remove(ticket)
        if connection is not None:
            self._retired[ticket] = connection
            self._retired_each[connection] = self._retired_each.get(connection, 0) + 1

    def release(self, ticket: int) -> None:
        """Remove a holder."""
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
