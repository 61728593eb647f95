"""What the orchestrator has learned about the other services: the models they serve, and the fields of collections.

Rule: a service that does not answer never prevents a start or a search; what was learned before stays. A collection is
looked up again after `fresh_s` seconds, and when a search shows that it changed.
"""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from time import monotonic
from typing import Final

from sluice.errors import NotFound, SluiceError

from services.orchestrator.downstream.reranking import RerankingModel
from services.orchestrator.downstream.schemas import Collection, EmbeddingModel
from services.orchestrator.downstream.services import Services
from services.rpc.deadline import Deadline

logger = logging.getLogger(__name__)

_MAX_COLLECTIONS: Final = 1000
# A working service lists its models and collections in milliseconds.
_LOOKUP_TIMEOUT_S: Final = 2.0
# Interval of lookups until the models are known.
_EAGER_INTERVAL_S: Final = 0.5


class ServiceDirectory:
    """The models and collections, as last seen.

    models_from       clients for listing models; they do not share circuit breakers with searches
    collections_from  clients for looking up collections
    """

    def __init__(self, models_from: Services, collections_from: Services, *, fresh_s: float) -> None:
        self.embedders: list[EmbeddingModel] | None = None
        self.rerankers: list[RerankingModel] | None = None
        self._models_from = models_from
        self._collections_from = collections_from
        self._fresh_s = fresh_s
        self._collections: OrderedDict[str, tuple[float, Collection]] = OrderedDict()
        self._lookups: set[asyncio.Task[None]] = set()
        self._asked_once = asyncio.Event()

    async def collection(self, name: str, deadline: Deadline) -> tuple[Collection, bool]:
        """Return a collection, and whether it was looked up just now.

        Waits only for a collection that is unknown. One that was seen too long ago is looked up in the background.
        Raises NotFound, and the error of a retrieval service that does not answer.
        """
        seen = self._collections.get(name)
        if seen is None:
            return await self.look_up(name, deadline), True
        seen_at, collection = seen
        if monotonic() >= seen_at + self._fresh_s:
            self._collections[name] = (monotonic(), collection)
            lookup = asyncio.create_task(self._look_up_again(name))
            self._lookups.add(lookup)
            lookup.add_done_callback(self._lookups.discard)
        return collection, False

    async def look_up(self, name: str, deadline: Deadline) -> Collection:
        """Return a collection as it is now. Raises the errors of `collection`."""
        found = await self._collections_from.retrieval.collection(name, deadline)
        self._collections[name] = (monotonic(), found)
        self._collections.move_to_end(name)
        if len(self._collections) > _MAX_COLLECTIONS:
            self._collections.popitem(last=False)
        return found

    async def _look_up_again(self, name: str) -> None:
        try:
            await self.look_up(name, Deadline.after(_LOOKUP_TIMEOUT_S))
        except NotFound:
            self.forget(name)
        except SluiceError as error:
            logger.debug("collection lookup failed", extra={"collection": name, "reason": error.message})

    def forget(self, name: str) -> None:
        """Forget a collection, so that the next search looks it up."""
        self._collections.pop(name, None)

    async def models(self, patience_s: float) -> list[EmbeddingModel] | None:
        """Return the embedding models; None if they are unknown. Waits only for the first answer after the start."""
        if self.embedders is None and not self._asked_once.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked_once.wait(), patience_s)
        return self.embedders

    async def refresh(self) -> None:
        """List the models of both services again. Models of a service that does not answer stay as they were."""
        await asyncio.gather(self.refresh_embedders(), self._refresh_rerankers())
        self._asked_once.set()

    @property
    def next_s(self) -> float:
        """Seconds until the next refresh is due."""
        return self._fresh_s if self.embedders is not None and self.rerankers is not None else _EAGER_INTERVAL_S

    async def refresh_embedders(self) -> None:
        """List the embedding models again. They stay as they were if the service does not answer."""
        try:
            self.embedders = await self._models_from.embedding.models(Deadline.after(_LOOKUP_TIMEOUT_S), patient=False)
        except SluiceError as error:
            logger.debug("listing models failed", extra={"service": "embedding", "reason": error.message})

    async def _refresh_rerankers(self) -> None:
        try:
            self.rerankers = await self._models_from.reranking.models(Deadline.after(_LOOKUP_TIMEOUT_S), patient=False)
        except SluiceError as error:
            logger.debug("listing models failed", extra={"service": "reranking", "reason": error.message})
