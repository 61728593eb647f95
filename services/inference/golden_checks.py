"""Golden checks while a server serves: after a batch failed, when an execution provider was lost, and periodically.

A model that fails its check makes the server unready until it passes one. Health reads the results of the last checks.
The checks themselves run in a thread of the lowest priority.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import monotonic
from typing import Final, Protocol

from services.inference.loader import Model, check_golden
from services.inference.scheduler import BatchScheduler
from services.rpc.server.priority import LOWEST, lower_priority

logger = logging.getLogger(__name__)

# Seconds between looks for checks that are due.
_LOOK_S: Final = 1.0
# Seconds after which a model that failed its check is checked again.
_AGAIN_S: Final = 5.0


class LoadedModels(Protocol):
    """The models of a server, which change while it runs."""

    @property
    def models(self) -> Sequence[Model]:
        """All models."""

    def using(self, name: str) -> AbstractContextManager[Model]:
        """Return the model of a name, which stays loaded in the block."""


class GoldenChecks:
    """Checks the models of one server. Belongs to the event loop.

    every_s  seconds between checks of a healthy model; 0 disables periodic checks
    """

    def __init__(self, loaded: LoadedModels, *, every_s: float) -> None:
        self._loaded = loaded
        self._every_s = every_s
        self._checked: dict[BatchScheduler, float] = {}
        self._failures: dict[BatchScheduler, str] = {}
        self._thread = ThreadPoolExecutor(1, "golden", initializer=lower_priority, initargs=(LOWEST,))

    def problem(self) -> str:
        """Return why models cannot answer, or not correctly; empty if all can."""
        now = monotonic()
        found = [
            f"{model.name}: {problem}"
            for model in self._loaded.models
            if (problem := self._failures.get(model.scheduler) or model.scheduler.problem(now))
        ]
        return "; ".join(found)

    async def watch(self) -> None:
        """Run checks when they are due, until cancelled."""
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                for model in self._loaded.models:
                    if self._is_due(model, monotonic()):
                        await self._check(model)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_due(self, model: Model, now: float) -> bool:
        waited = now - self._checked.setdefault(model.scheduler, now)
        if model.scheduler in self._failures:
            return waited >= _AGAIN_S
        return model.scheduler.is_suspect or (self._every_s > 0 and waited >= self._every_s)

    async def _check(self, model: Model) -> None:
        """Run the golden inputs. The model stays loaded meanwhile."""
        with self._loaded.using(model.name) as loaded:
            if loaded is not model:
                return
            model.scheduler.is_suspect = False
            failure = await asyncio.get_running_loop().run_in_executor(self._thread, _failure_of, model)
        self._checked[model.scheduler] = monotonic()
        was_failed = self._failures.pop(model.scheduler, None)
        if failure:
            self._failures[model.scheduler] = failure
        if bool(failure) != bool(was_failed):
            logger.warning(
                "golden check failed" if failure else "golden check passed again",
                extra={"model": model.name, "failure": failure},
            )
        present = {one.scheduler for one in self._loaded.models}
        self._checked = {scheduler: at for scheduler, at in self._checked.items() if scheduler in present}
        self._failures = {scheduler: why for scheduler, why in self._failures.items() if scheduler in present}


def _failure_of(model: Model) -> str:
    """Run the golden check and return why it failed, or that the execution provider was lost; empty if it passed."""
    session = model.session
    if session.execution_provider != session.opened_with:
        return f"{session.opened_with} was lost; {session.execution_provider} runs the model instead"
    try:
        check_golden(model.bundle, model.tokenizer, model.session, model.prompt)
    except Exception as error:  # an error of the runtime, a file that is gone: in any case there was no correct answer
        return f"golden check: {error}"
    return ""
