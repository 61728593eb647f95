"""The RPCs that list, load and unload models, which embedding and reranking have in common."""

from collections.abc import Callable
from typing import Any

from services.inference.catalog import Catalog, model_ref
from services.inference.loader import Model
from services.rpc.server.interceptor import Context


class ModelManagement:
    """ListModels, LoadModel and UnloadModel of a model server.

    messages  the generated module of the service, whose messages have the same names in each service
    describe  makes the entry of a model in the response of ListModels
    """

    def __init__(self, catalog: Catalog, messages: Any, describe: Callable[[Model], Any]) -> None:
        self._catalog = catalog
        self._messages = messages
        self._describe = describe

    async def ListModels(self, request: Any, context: Context) -> Any:
        """List the loaded models."""
        return self._messages.ListModelsResponse(models=map(self._describe, self._catalog.models))

    async def LoadModel(self, request: Any, context: Context) -> Any:
        """Load a bundle from the repository."""
        model = await self._catalog.load(request.name, request.version)
        return self._messages.LoadModelResponse(model=model_ref(model))

    async def UnloadModel(self, request: Any, context: Context) -> Any:
        """Unload a model once its calls have ended."""
        await self._catalog.unload(request.name)
        return self._messages.UnloadModelResponse()
