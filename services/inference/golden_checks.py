"""Golden checks while a server serves: after a batch failed, when a provider was lost, and from time to time.

A model that failed its check keeps the server from being ready until it passes one. Health only looks at what the
last checks said; the checks themselves run here, in a thread that gives way to all work.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Final

from services.inference.loader import Model, check_golden
from services.inference.scheduler import BatchScheduler
from services.rpc.server.priority import LOWEST, lower_priority

if TYPE_CHECKING:
    from services.inference.catalog import Catalog

logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
# A model that failed is tried again after so long.
_AGAIN_S: Final = 5.0


class GoldenChecks:
    """The checks of a catalog's models. Belongs to the event loop.

    every_s  seconds between checks of a model that nothing is said against; 0 for none
    """

    def __init__(self, catalog: "Catalog", *, every_s: float) -> None:
        self._catalog = catalog
        self._every_s = every_s
        self._checked: dict[BatchScheduler, float] = {}
        self._failed: dict[BatchScheduler, str] = {}
        self._thread = ThreadPoolExecutor(1, "golden", initializer=lower_priority, initargs=(LOWEST,))

    def problem(self) -> str:
        """What keeps a model from answering, or from answering rightly; empty when nothing does."""
        now = monotonic()
        found = [
            f"{model.name}: {problem}"
            for model in self._catalog.models
            if (problem := self._failed.get(model.scheduler) or model.scheduler.problem(now))
        ]
        return "; ".join(found)

    async def watch(self) -> None:
        """Check what is due, again and again, until cancelled."""
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                for model in self._catalog.models:
                    if self._is_due(model, monotonic()):
                        await self._check(model)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_due(self, model: Model, now: float) -> bool:
        waited = now - self._checked.setdefault(model.scheduler, now)
        if model.scheduler in self._failed:
            return waited >= _AGAIN_S
        return model.scheduler.is_suspect or (self._every_s > 0 and waited >= self._every_s)

    async def _check(self, model: Model) -> None:
        """Run the golden inputs, while the model stays loaded."""
        with self._catalog.using(model.name) as loaded:
            if loaded is not model:
                return
            model.scheduler.is_suspect = False
            failure = await asyncio.get_running_loop().run_in_executor(self._thread, _golden, model)
        self._checked[model.scheduler] = monotonic()
        was_failed = self._failed.pop(model.scheduler, None)
        if failure:
            self._failed[model.scheduler] = failure
        if bool(failure) != bool(was_failed):
            logger.warning("golden check", extra={"model": model.name, "failure": failure or "none any more"})
        present = {one.scheduler for one in self._catalog.models}
        self._checked = {engine: at for engine, at in self._checked.items() if engine in present}
        self._failed = {engine: why for engine, why in self._failed.items() if engine in present}


def _golden(model: Model) -> str:
    """Why the golden check failed, or that its provider was lost; empty when it passed."""
    session = model.session
    if session.execution_provider != session.opened_with:
        return f"{session.opened_with} was lost, {session.execution_provider} runs in its place"
    try:
        check_golden(model.bundle, model.tokenizer, model.session)
    except Exception as error:  # the runtime's own, a file that is gone: whatever it is, it did not answer rightly
        return f"golden check: {error}"
    return ""
