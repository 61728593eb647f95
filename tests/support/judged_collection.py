"""A judged collection in BEIR layout, from the documentation that is part of Python."""

import json
from itertools import islice
from pathlib import Path

from services.local.pydocs import corpus


def write_collection(folder: Path, count: int = 40) -> Path:
    """Write `count` passages. Each title is a query whose only relevant document is the passage."""
    documents = list(islice(corpus(), count))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qrels").mkdir()
    _lines(folder / "corpus.jsonl", [{"_id": d.document_id, "title": d.title, "text": d.text} for d in documents])
    queries = {f"q{number}": document for number, document in enumerate(documents)}
    _lines(folder / "queries.jsonl", [{"_id": name, "text": document.title} for name, document in queries.items()])
    rows = [f"{name}\t{document.document_id}\t1" for name, document in queries.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def _lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
