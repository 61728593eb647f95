"""Inverted lists equal dictionaries of the terms of each document, whatever is taken, joined or spread."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.domain.vectors import Terms
from services.retrieval.embedded.index.postings import Postings

Model = list[dict[int, float]]
TERMS = st.dictionaries(st.integers(-3, 5), st.sampled_from([0.5, 1.0, 2.0]), max_size=5)
MODELS = st.lists(TERMS, max_size=8)


def postings_of(model: Model) -> Postings:
    pairs = [sorted(terms.items()) for terms in model]
    return Postings.of(
        Terms.of(
            [
                (np.array([key for key, _ in one], dtype=np.int64), np.array([v for _, v in one], dtype=np.float32))
                for one in pairs
            ]
        )
    )


def assert_equal(postings: Postings, model: Model) -> None:
    assert postings.keys.tolist() == sorted({key for terms in model for key in terms})
    for key in range(-4, 7):
        documents, values = postings.list_of(key)
        expected = [(position, terms[key]) for position, terms in enumerate(model) if key in terms]
        assert list(zip(documents.tolist(), values.tolist(), strict=True)) == expected
    assert postings.sums.tolist() == [sum(terms.values()) for terms in model]


@given(MODELS)
def test_lists_contain_the_terms_of_each_document(model: Model) -> None:
    assert_equal(postings_of(model), model)


@given(MODELS, st.data())
def test_take_keeps_the_chosen_documents(model: Model, data: st.DataObject) -> None:
    chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(model)))))) if model else []
    taken = postings_of(model).take(np.array(chosen, dtype=np.int64))
    assert_equal(taken, [model[position] for position in chosen])


@given(st.lists(MODELS, min_size=1, max_size=4))
def test_concatenate_joins_documents_in_order(models: list[Model]) -> None:
    joined = Postings.concatenate(list(map(postings_of, models)))
    assert_equal(joined, [terms for model in models for terms in model])


@given(MODELS, st.data())
def test_spread_gives_documents_new_positions(model: Model, data: st.DataObject) -> None:
    count = len(model) + data.draw(st.integers(0, 4))
    positions = sorted(data.draw(st.permutations(range(count)))[: len(model)])
    expected: Model = [{} for _ in range(count)]
    for position, terms in zip(positions, model, strict=True):
        expected[position] = terms
    assert_equal(postings_of(model).spread(np.array(positions, dtype=np.int64), count), expected)
