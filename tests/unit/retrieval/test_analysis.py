"""Tables of text analysis: words, bigrams of languages without spaces, long words, and the cache of keys."""

import random

import pytest
from prometheus_client import REGISTRY

from services.retrieval.domain.analysis import WORD_BYTES_MAX, KeyCache, analyzer, cut, key_of

ENGLISH = analyzer("english", keeps_stop_words=False)
PLAIN = analyzer("none", keeps_stop_words=True)


def keys(*terms: str) -> list[int]:
    return sorted(map(key_of, terms))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The cats sat", ["cats", "sat", "the"]),
        ("snake_case, don't!", ["snake_case", "don", "t"]),
        ("naïve ÜBER", ["naïve", "über"]),
        # NFD, full-width and half-width forms, ligatures.
        ("nai\u0308ve", ["naïve"]),
        ("ＡＢＣ１２３ ﬁne", ["abc123", "fine"]),
        ("ｶﾞｲﾄﾞ", ["ガ", "イ", "ド", "ガイ", "イド"]),
        # Chinese, also beyond the basic plane; Japanese; Korean, also as single letters that NFKC composes.
        ("我是中国人", ["我", "是", "中", "国", "人", "我是", "是中", "中国", "国人"]),
        ("𠮷野家", ["𠮷", "野", "家", "𠮷野", "野家"]),
        ("猫", ["猫"]),
        ("猫。犬", ["猫", "犬"]),
        ("データ", ["デ", "ー", "タ", "デー", "ータ"]),
        ("人々は食べる", ["人", "々", "は", "食", "べ", "る", "人々", "々は", "は食", "食べ", "べる"]),
        ("한국어 책", ["한", "국", "어", "한국", "국어", "책"]),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", ["한", "국", "한국"]),
        # A character whose look is chosen stays within its run.
        ("葛\U000e0100城", ["葛", "城", "葛城"]),
        # Mixed runs end where they meet.
        ("Python入門2024年版", ["python", "入", "門", "入門", "2024", "年", "版", "年版"]),
        ("iPhoneを買う", ["iphone", "を", "買", "う", "を買", "買う"]),
        ("", []),
        ("。、！", []),
    ],
)
def test_terms_of_a_document(text: str, terms: list[str]) -> None:
    assert sorted(PLAIN.keys(text).tolist()) == keys(*terms)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("中国人", ["中国", "国人"]),
        ("猫", ["猫"]),
        ("猫 Python入門", ["猫", "python", "入門"]),
        ("cats", ["cats"]),
    ],
)
def test_terms_of_a_query(text: str, terms: list[str]) -> None:
    assert sorted(PLAIN.query_keys(text).tolist()) == keys(*terms)


def test_words_are_stemmed_and_stop_words_skipped_beside_bigrams() -> None:
    assert sorted(ENGLISH.query_keys("The running 機械学習 of cats").tolist()) == keys(
        "run", "cat", "機械", "械学", "学習"
    )


def test_version_1_treats_a_run_of_letters_as_a_word() -> None:
    earlier = analyzer("none", keeps_stop_words=True, version=1)
    long = "x" * 300
    assert earlier.keys(f"我是中国人。 ＡＢＣ {long}").tolist() == [
        key_of(one) for one in ("我是中国人", "ａｂｃ", long)
    ]
    assert earlier.query_keys("中国").tolist() == [key_of("中国")]


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("a" * 255, "a" * 255),
        ("a" * 256, "a" * 255),
        ("é" * 127, "é" * 127),
        ("é" * 128, "é" * 127),
        ("𝄞" * 64, "𝄞" * 63),
    ],
)
def test_words_are_cut_between_characters_and_counted(word: str, kept: str) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("sluice_words_cut_total") or 0.0

    before = counted()
    assert cut(word) == kept
    assert counted() - before == (word != kept)
    assert len(kept.encode()) <= WORD_BYTES_MAX


def test_a_long_word_is_found_by_itself() -> None:
    word = "y" * 8000
    assert PLAIN.query_keys(word).tolist() == PLAIN.keys(f" {word}, ").tolist() == [key_of("y" * 255)]


def test_the_cache_stays_within_its_bytes() -> None:
    cache, rng = KeyCache(100_000), random.Random(1)
    for number in range(20_000):
        language = rng.choice(["english", "german", "none"])
        cache.add(language, f"{number:0{rng.choice([1, 60, 255])}}", number)
        assert cache.size_bytes <= 50_000
    held = sum(len(cache.recent(language)) for language in ("english", "german", "none"))
    assert 0 < held < 1000


def test_a_word_moves_to_the_previous_generation() -> None:
    cache = KeyCache(10_000)
    cache.add("english", "cats", 7)
    number = 0
    while cache.recent("english").get("cats"):
        number += 1
        cache.add("english", f"w{number}", number)
    assert cache.previous("english", "cats") == 7
    assert cache.previous("german", "cats") is None
