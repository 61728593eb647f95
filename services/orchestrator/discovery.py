"""What is known of the other services: which models they serve, which fields collections have.

Rule: nothing here keeps the orchestrator from starting or a search from being tried. A service that does not answer
leaves what was known of it. A collection is looked at again when it was not for `fresh_s`, or does not fit.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Final

from sluice.errors import NotFound, SluiceError

from services.orchestrator.downstream.reranking import RerankingModel
from services.orchestrator.downstream.schemas import Collection, EmbeddingModel
from services.orchestrator.downstream.services import Services
from services.orchestrator.pipelines.schema import Pipeline
from services.orchestrator.pipelines.validation import Check, check
from services.rpc.deadline import Deadline

logger = logging.getLogger(__name__)

_COLLECTIONS_MAX: Final = 1000
# A service that is well tells of its models and collections in milliseconds.
_ANSWER_S: Final = 2.0
# Until the models are known, they are asked for this often.
_EAGER_S: Final = 0.5


class Known:
    """Models and collections, as they were seen last.

    asking   the services that are asked for models, apart from those that searches call, so that it opens no breaker
    reading  those that are asked for collections
    """

    def __init__(self, asking: Services, reading: Services, *, fresh_s: float) -> None:
        self.embedders: list[EmbeddingModel] | None = None
        self.rerankers: list[RerankingModel] | None = None
        self._asking = asking
        self._reading = reading
        self._fresh_s = fresh_s
        self._collections: OrderedDict[str, tuple[float, Collection]] = OrderedDict()
        self._looking: set[asyncio.Task[None]] = set()
        self._asked_once = asyncio.Event()
        self._told: dict[str, Check] = {}

    async def collection(self, name: str, deadline: Deadline) -> tuple[Collection, bool]:
        """A collection, and whether it was seen just now; a search waits only for one that was never seen.

        Raises NotFound, and what keeps retrieval from answering.
        """
        seen = self._collections.get(name)
        if seen is None:
            return await self.look(name, deadline), True
        seen_at, collection = seen
        if monotonic() >= seen_at + self._fresh_s:
            self._collections[name] = (monotonic(), collection)
            looking = asyncio.create_task(self._look_again(name))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
        return collection, False

    async def look(self, name: str, deadline: Deadline) -> Collection:
        """A collection as it is now. Raises as `collection` does."""
        found = await self._reading.retrieval.collection(name, deadline)
        self._collections[name] = (monotonic(), found)
        self._collections.move_to_end(name)
        if len(self._collections) > _COLLECTIONS_MAX:
            self._collections.popitem(last=False)
        return found

    async def _look_again(self, name: str) -> None:
        try:
            await self.look(name, Deadline.after(_ANSWER_S))
        except NotFound:
            self.forget(name)
        except SluiceError as error:
            logger.debug("collection not seen again", extra={"collection": name, "reason": error.message})

    def forget(self, name: str) -> None:
        """Ask for this collection again when it is needed."""
        self._collections.pop(name, None)

    async def models(self, patience_s: float) -> list[EmbeddingModel] | None:
        """The embedding models; None when they are not known. Waits for the first answer only."""
        if self.embedders is None and not self._asked_once.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked_once.wait(), patience_s)
        return self.embedders

    def check(self, pipeline: Pipeline) -> Check:
        """Whether a pipeline can work with the models that are served."""
        return check(pipeline, self.embedders, self.rerankers)

    def tell(self, pipelines: Mapping[str, Pipeline]) -> None:
        """Log what pipelines lack, once for each change."""
        for name, pipeline in pipelines.items():
            found = self.check(pipeline)
            if found != self._told.get(name, Check("usable")) and found.state != "unchecked":
                fields = {"pipeline": name, "state": found.state, "problems": list(found.problems)}
                logger.log(logging.WARNING if found.problems else logging.INFO, "pipeline checked", extra=fields)
                self._told[name] = found

    async def refresh(self) -> None:
        """Ask both services for their models; what one does not answer stays as it was."""
        await asyncio.gather(self.refresh_embedders(), self._refresh_rerankers())
        self._asked_once.set()

    @property
    def next_s(self) -> float:
        """Seconds until the models should be asked for again."""
        return self._fresh_s if self.embedders is not None and self.rerankers is not None else _EAGER_S

    async def refresh_embedders(self) -> None:
        """Ask for the embedding models; they stay as they were when the service does not answer."""
        try:
            self.embedders = await self._asking.embedding.models(Deadline.after(_ANSWER_S), patient=False)
        except SluiceError as error:
            logger.debug("models not known", extra={"service": "embedding", "reason": error.message})

    async def _refresh_rerankers(self) -> None:
        try:
            self.rerankers = await self._asking.reranking.models(Deadline.after(_ANSWER_S), patient=False)
        except SluiceError as error:
            logger.debug("models not known", extra={"service": "reranking", "reason": error.message})
