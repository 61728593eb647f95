from datetime import UTC, datetime

import pytest
from sluice.client import Document
from sluice.client.jsonl import Unreadable, documents


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "a", "text": "x"}', Document("a", "x")),
        ('{"id": "a", "title": "T", "text": "x", "metadata": {"y": 1}}', Document("a", "x", "T", {"y": 1})),
        ('{"_id": "beir", "title": "", "text": "x", "metadata": {}}', Document("beir", "x")),
        ('{"id": 7, "text": "x"}', Document("7", "x")),
        ('{"id": "a", "text": null, "title": null, "metadata": null}', Document("a", "")),
        (
            '{"id": "a", "text": "x", "metadata": {"on": "2024-05-01", "s": "2024-05-01"}}',
            Document("a", "x", "", {"on": datetime(2024, 5, 1, tzinfo=UTC), "s": "2024-05-01"}),
        ),
    ],
)
def test_line_is_a_document(line: str, expected: Document) -> None:
    assert list(documents([line], timestamps=frozenset({"on"}))) == [expected]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object, got list"),
        ('{"text": "x"}', 'expected an "id" or "_id"'),
        ('{"id": true, "text": "x"}', 'expected an "id" or "_id"'),
        ('{"id": "a", "text": 1}', 'expected "text" to be a text, got int'),
        ('{"id": "a", "text": "x", "metadata": [1]}', 'expected "metadata" to be an object, got list'),
        ('{"id": "a", "text": "x", "metadata": {"on": "soon"}}', 'expected "on" to be a time'),
    ],
)
def test_invalid_line_is_reported_with_its_number(line: str, problem: str) -> None:
    [found] = documents(["", "\n", line], timestamps=frozenset({"on"}))
    assert isinstance(found, Unreadable)
    assert found.line == 3
    assert problem in found.problem
