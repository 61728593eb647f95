"""Text to terms: lower-cased Unicode words, without stop words, stemmed, as 64-bit keys."""

import re
import threading
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import Stemmer

from services.core.arrays import I64

NO_STEMMER: Final = "none"
LANGUAGES: Final = frozenset({*Stemmer.algorithms(), NO_STEMMER})

_WORD: Final = re.compile(r"\w+")
# Lucene's list, which BM25 baselines use.
_ENGLISH_STOP_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be but by for if in into is it no not of on or such that the their then there these they
        this to was will with""",
    )
)
# Distinct words remembered: the words of a large corpus that come again.
_REMEMBERED: Final = 200_000


class Analyzer:
    """Turns text into keys of terms. Equal settings give equal keys, in every process. Any thread may use it."""

    def __init__(self, language: str, *, keeps_stop_words: bool) -> None:
        self._stop_words = frozenset() if keeps_stop_words or language != "english" else _ENGLISH_STOP_WORDS
        self._stemmer = None if language == NO_STEMMER else Stemmer.Stemmer(language, 0)
        # A stemmer has a buffer of its own, which two threads must not share.
        self._lock = threading.Lock()

    def keys(self, text: str) -> I64:
        """The keys of a text's terms, in their order: int64[words that are no stop words]."""
        words = _WORD.findall(text.lower())
        return np.array([self._key(word) for word in words if word not in self._stop_words], dtype=np.int64)

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019 - analyzers live as long as the process
    def _key(self, word: str) -> int:
        return key_of(self.stem(word))

    def stem(self, word: str) -> str:
        """The stem of a lower-cased word."""
        if self._stemmer is None:
            return word
        with self._lock:
            stem: str = self._stemmer.stemWord(word)
        return stem


def key_of(term: str) -> int:
    """The key of a term. Two of a million terms share one with a probability of 1 to 37 million."""
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "little", signed=True)


@lru_cache
def analyzer(language: str, *, keeps_stop_words: bool) -> Analyzer:
    """The analyzer with these settings; one a process, since it remembers words."""
    return Analyzer(language, keeps_stop_words=keeps_stop_words)
