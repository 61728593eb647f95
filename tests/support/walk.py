"""The walk of a search: the modules of the orchestrator in the order in which a search first calls their functions.

`python -m tests.support.walk [PIPELINE]` searches over the fake services and prints a line for each visit of a module.
A visit that is not the first one to its module is a return. The last lines sum up, for all modules and for the stages.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from sluice.common.v1.document_pb2 import Document
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.fake_services import PIPELINES, index, system

_FOLDER: Final = str(Path(__file__).parents[2] / "services/orchestrator") + "/"
_DOCUMENTS: Final = [Document(document_id=f"d{n}", text=f"a document about {n} words") for n in range(20)]
STAGES: Final = ("search/retrieve", "search/rescore", "search/feedback")


async def walk(pipeline: str, pipelines: Path = PIPELINES) -> list[str]:
    """Return the modules that a search visits, in order. Comprehensions and repeated calls are not counted."""
    visits: list[str] = []
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in called or code.co_name.startswith("<") or _FOLDER not in code.co_filename:
            return
        called.add(code)
        module = code.co_filename.removeprefix(_FOLDER).removesuffix(".py")
        if visits[-1:] != [module]:
            visits.append(module)

    async with system(pipelines, fresh_s=600.0) as running:
        await index(running, _DOCUMENTS)
        request = pb.SearchRequest(collection="books", query="about words", pipeline=pipeline)
        await running.search.Search(request)
        sys.setprofile(note)
        try:
            await running.search.Search(request)
        finally:
            sys.setprofile(None)
    return visits


def returns(visits: Sequence[str]) -> int:
    """Return how many visits are not the first one to their module."""
    return len(visits) - len(set(visits))


def main() -> None:
    """Print the walk of a search."""
    visits = asyncio.run(walk(sys.argv[1] if len(sys.argv) > 1 else "default"))
    stages = [one for one in visits if one in STAGES]
    lines = [f"{'return' if one in visits[:place] else 'new':8}{one}" for place, one in enumerate(visits)]
    lines.append(f"{len(set(visits))} modules, {returns(visits)} returns")
    changes = [one for place, one in enumerate(stages) if stages[place - 1 : place] != [one]]
    lines.append(f"stages: {' '.join(changes)}: {returns(changes)} returns")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
