"""Text analysis: text to terms as 64-bit keys, which are stemmed words, or bigrams of Chinese, Japanese and Korean.

Text is normalized (NFKC: one form for full-width and half-width letters, for kana and for composed syllables) and
lower-cased. A word is a run of letters, digits and underscores. Chinese and Japanese have no spaces between words, and
Korean attaches particles to words. So a run of their characters is indexed as its overlapping bigrams and as its single
characters. A query contains the bigrams of a run, or the character itself if the run has only one. So a query of one
character finds every run that contains it. A run ends where other letters begin.

Source: Lucene's CJKAnalyzer (StandardTokenizer, CJKWidthFilter, CJKBigramFilter), with `outputUnigrams` on for
documents and off for queries.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from sys import getsizeof
from typing import Final
from unicodedata import normalize

import numpy as np
import Stemmer

from services.core.arrays import I64
from services.retrieval.domain.schema import ANALYSIS_VERSION
from services.retrieval.metrics import WORDS_CUT

NO_STEMMER: Final = "none"
LANGUAGES: Final = frozenset({*Stemmer.algorithms(), NO_STEMMER})
# Bytes of UTF-8. Longer words are identifiers, encoded data or attacks. Lucene's tokenizer has the same limit.
WORD_BYTES_MAX: Final = 255

# Han, kana and Hangul, with the marks that occur among them: repetition, prolonged sound, voicing.
_CJK: Final = (
    "\u1100-\u11ff\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u303c\u3041-\u3096\u3099\u309a\u309d-\u309f"
    "\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3131-\u318e\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_WORD: Final = re.compile(r"\w+")
_RUN_OR_WORD: Final = re.compile(rf"([{_CJK}]+)|([^\W{_CJK}]+)")
# They select the appearance of the preceding character, and would end a run.
_VARIATION_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Lucene's list, which BM25 baselines use.
_ENGLISH_STOP_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be but by for if in into is it no not of on or such that the their then there these they
        this to was will with""",
    )
)
# Bytes of cached keys of all languages together: about 60,000 words, the frequent ones of a large corpus.
_CACHE_BYTES: Final = 12 * 2**20
# A dictionary entry and its integer.
_ENTRY_BYTES: Final = 136


class Analyzer:
    """Converts text to keys of terms. Equal settings give equal keys in every process. Any thread may use it.

    Version 1 is the analysis of earlier releases: each run of letters is a word, also in languages without spaces.
    """

    def __init__(self, language: str, *, keeps_stop_words: bool, version: int) -> None:
        self._language = language
        self._has_bigrams = version > 1
        self._stop_words = frozenset() if keeps_stop_words or language != "english" else _ENGLISH_STOP_WORDS
        self._stemmer = None if language == NO_STEMMER else Stemmer.Stemmer(language, 0)
        # A stemmer has an internal buffer, so only one thread at a time may use it.
        self._lock = threading.Lock()

    def keys(self, text: str) -> I64:
        """Return the key of each term in a document's text, repeated terms included, int64[T]."""
        return self._keys(text, is_query=False)

    def query_keys(self, text: str) -> I64:
        """Return the key of each term in a query, repeated terms included, int64[T]."""
        return self._keys(text, is_query=True)

    def stem(self, word: str) -> str:
        """Return the stem of a lower-cased word."""
        if self._stemmer is None:
            return word
        with self._lock:
            stem: str = self._stemmer.stemWord(word)
        return stem

    def _keys(self, text: str, *, is_query: bool) -> I64:
        words, runs = self._split(text)
        known = _CACHE.recent(self._language)
        keys = [known.get(word) or self._add(word) for word in words if word not in self._stop_words]
        if runs:
            known = _CACHE.recent(NO_STEMMER)
            terms = (term for run in runs for term in _terms(run, is_query=is_query))
            keys.extend(known.get(term) or _add(NO_STEMMER, term, str) for term in terms)
        return np.array(keys, dtype=np.int64)

    def _split(self, text: str) -> tuple[list[str], list[str]]:
        """Return the words of a text, and its runs of Chinese, Japanese and Korean characters."""
        if not self._has_bigrams:
            return _WORD.findall(text.lower()), []
        if text.isascii():
            return [cut(word) for word in _WORD.findall(text.lower())], []
        found = _RUN_OR_WORD.findall(_VARIATION_SELECTORS.sub("", normalize("NFKC", text)).lower())
        return [cut(word) for _, word in found if word], [run for run, _ in found if run]

    def _add(self, word: str) -> int:
        return _add(self._language, word, self.stem)


class KeyCache:
    """Keys of recently used words by language, within a number of bytes.

    The cache has two generations. When the recent one has half of the bytes, it replaces the previous one. A word of
    the previous generation that is used again moves to the recent one.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._recent: dict[str, dict[str, int]] = {}
        self._previous: dict[str, dict[str, int]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Estimated bytes of the recent generation. The previous one takes at most half of the limit."""
        return self._bytes

    def recent(self, language: str) -> Mapping[str, int]:
        """Return the recent words of a language."""
        return self._recent.get(language, _EMPTY)

    def previous(self, language: str, word: str) -> int | None:
        """Return the key of a word of the previous generation, or None."""
        return self._previous.get(language, _EMPTY).get(word)

    def add(self, language: str, word: str, key: int) -> None:
        """Add a word to the recent generation."""
        with self._lock:
            self._recent.setdefault(language, {})[word] = key
            self._bytes += getsizeof(word) + _ENTRY_BYTES
            if self._bytes > self._max_bytes // 2:
                self._previous, self._recent, self._bytes = self._recent, {}, 0


_EMPTY: Final[Mapping[str, int]] = {}
_CACHE: Final = KeyCache(_CACHE_BYTES)


def cut(word: str) -> str:
    """Cut a word to at most WORD_BYTES_MAX bytes in whole characters, and count the words that are cut."""
    if 4 * len(word) <= WORD_BYTES_MAX:
        return word
    encoded = word.encode()
    if len(encoded) <= WORD_BYTES_MAX:
        return word
    WORDS_CUT.inc()
    return encoded[:WORD_BYTES_MAX].decode(errors="ignore")


def key_of(term: str) -> int:
    """Return the key of a term. The probability that two of a million terms share a key is 1 in 37 million."""
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "little", signed=True)


@lru_cache
def analyzer(language: str, *, keeps_stop_words: bool, version: int = ANALYSIS_VERSION) -> Analyzer:
    """Return the analyzer with these settings, one per process."""
    return Analyzer(language, keeps_stop_words=keeps_stop_words, version=version)


def _terms(run: str, *, is_query: bool) -> Iterator[str]:
    """Yield the terms of a run of Chinese, Japanese or Korean characters."""
    if not is_query or len(run) == 1:
        yield from run
    yield from map("".join, pairwise(run))


def _add(language: str, word: str, stem: Callable[[str], str]) -> int:
    """Return the key of a word that is not in the recent generation, and add it."""
    key = _CACHE.previous(language, word)
    if key is None:
        key = key_of(stem(word))
    # Version 1 does not cut words, so longer ones are not cached.
    if 4 * len(word) <= WORD_BYTES_MAX or len(word.encode()) <= WORD_BYTES_MAX:
        _CACHE.add(language, word, key)
    return key
