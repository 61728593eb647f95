"""Collections for the benchmark of long documents: samples, and documents joined into longer ones."""

from sluice.client import Document

from loadtest.bench.long_documents import joined, sampled
from loadtest.quality.judged_collection import JudgedCollection

QRELS = {"q": {"d1": 1, "d7": 2}, "r": {"d4": 1}}
JUDGED = JudgedCollection(
    [Document(f"d{number}", f"text {number}", f"title {number}") for number in range(10)],
    (),
    {"q": "first", "r": "second"},
    QRELS,
    (),
)


def test_a_sample_has_every_judged_document() -> None:
    assert sampled(JUDGED, 0) == JUDGED
    ids = {one.document_id for one in sampled(JUDGED, 5).documents}
    assert len(ids) == 5
    assert ids > {"d1", "d7", "d4"}
    assert {one.document_id for one in sampled(JUDGED, 1).documents} == {"d1", "d7", "d4"}


def test_a_joined_document_has_the_text_and_the_best_grade_of_its_parts() -> None:
    long = joined(JUDGED, 4)
    assert [len(one.text.splitlines()) // 2 for one in long.documents] == [4, 4, 2]
    texts = {one.document_id: one.text for one in long.documents}
    assert all(sum(f"title {n}\ntext {n}" in text for text in texts.values()) == 1 for n in range(10))
    for query, grades in QRELS.items():
        for id_, grade in grades.items():
            [whole] = [name for name, text in texts.items() if f"text {id_[1:]}" in text]
            assert long.qrels[query][whole] >= grade
    assert joined(JUDGED, 10).qrels == {"q": {"joined-0": 2}, "r": {"joined-0": 1}}
