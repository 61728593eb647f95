"""Bearer tokens: the methods, collections and rates that each allows.

    - name: search-page
      sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
      may: [read]                     # read, write, admin; default: read
      collections: ['docs', 'team-*'] # names or patterns; default: all
      calls_per_s: 50                 # default: no limit
      calls_burst: 100                # default: two seconds of calls_per_s
      texts_per_s: 1000               # texts and documents of all calls; default: no limit
      texts_burst: 2000

A method is a `read` if its proto says NO_SIDE_EFFECTS or its service says so. It is a `write` if it changes the
contents of a collection that its request names, and `admin` otherwise, such as loading models.

Rule: no clock, no network. Only the hash of a token is kept, and no message contains a token or a hash.

Facts: a token is 256 random bits, which cannot be guessed, so a plain SHA-256 is as safe as a slow hash with a salt.
The hash is compared with every entry in constant time.
"""

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from sluice.errors import PermissionDenied, QuotaExceeded, Unauthenticated

from services.rpc.auth.quota import Bucket

Kind = Literal["read", "write", "admin"]

_MOST_TOKENS: Final = 1000
_MOST_BYTES: Final = 2**20
_BEARER: Final = "bearer "
# A token has 50 characters. Longer values than this are not hashed.
_MOST_CHARACTERS: Final = 1024
_BURST_S: Final = 2.0


class TokensError(Exception):
    """A tokens file that cannot be used. The message says where and why, and contains no hash."""


class Token(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    may: frozenset[Kind] = Field(frozenset({"read"}), min_length=1)
    collections: tuple[str, ...] = Field(("*",), min_length=1, max_length=100)
    calls_per_s: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    calls_burst: float | None = Field(None, ge=1, le=1e7, allow_inf_nan=False)
    texts_per_s: float | None = Field(None, gt=0, le=1e7, allow_inf_nan=False)
    texts_burst: float | None = Field(None, ge=1, le=1e8, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bursts_have_rates(self) -> Self:
        for what in ("calls", "texts"):
            if getattr(self, f"{what}_burst") and not getattr(self, f"{what}_per_s"):
                raise ValueError(f"expected {what}_per_s together with {what}_burst, got none")
        return self

    def allows(self, collection: str) -> bool:
        """Return whether the token may use a collection or alias of this name."""
        return any(fnmatchcase(collection, pattern) for pattern in self.collections)

    def rate(self, what: Literal["calls", "texts"]) -> tuple[float, float] | None:
        """Return the units per second and the burst; None without a limit."""
        rate: float | None = getattr(self, f"{what}_per_s")
        burst: float | None = getattr(self, f"{what}_burst")
        return None if rate is None else (rate, burst or max(1.0, _BURST_S * rate))


_FILE: Final = TypeAdapter(list[Token])


def load(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file. Raises TokensError."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TokensError(f"{path}: expected at most {_MOST_BYTES:,} bytes")
        entries = yaml.safe_load(path.read_bytes())
        tokens = _FILE.validate_python([] if entries is None else entries)
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise TokensError(
            f"{path}: expected YAML, found an error{f' at line {mark.line + 1}' if mark else ''}"
        ) from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise TokensError(f"{path}: {problems}") from None
    if len(tokens) > _MOST_TOKENS:
        raise TokensError(f"{path}: expected at most {_MOST_TOKENS:,} tokens, found {len(tokens):,}")
    for key in ("name", "sha256"):
        if len({getattr(token, key) for token in tokens}) < len(tokens):
            raise TokensError(f"{path}: expected a different {key} for each token, found a duplicate")
    return tuple(tokens)


@dataclass
class Callers:
    """The tokens in use, and the remaining quota of each."""

    tokens: Sequence[Token]
    _buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict, repr=False)

    def replace(self, tokens: Sequence[Token]) -> None:
        """Use other tokens. Quotas that did not change keep their usage."""
        self.tokens = tokens
        wanted: Mapping[tuple[str, str], tuple[float, float] | None] = {
            (token.name, what): token.rate(what) for token in tokens for what in ("calls", "texts")
        }
        self._buckets = {
            key: bucket for key, bucket in self._buckets.items() if wanted.get(key) == (bucket.rate, bucket.burst)
        }

    def bearer(self, authorization: str | bytes | None) -> Token:
        """Return the token of an authorization header.

        Raises Unauthenticated for a missing, malformed or unknown one.
        """
        if authorization is None:
            raise Unauthenticated("expected metadata `authorization: Bearer TOKEN`, got none")
        text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
        if text[: len(_BEARER)].lower() != _BEARER or len(text) > _MOST_CHARACTERS:
            raise Unauthenticated("expected metadata `authorization: Bearer TOKEN`, got something else")
        digest = hashlib.sha256(text[len(_BEARER) :].strip().encode()).hexdigest()
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None:
            raise Unauthenticated("unknown token; it may have been revoked")
        return found

    def wait_s(self, token: Token, what: Literal["calls", "texts"], units: int, now: float) -> float:
        """Return the seconds until a token may be charged so many units; 0 for now."""
        bucket = self._bucket(token, what, now)
        return 0.0 if bucket is None else bucket.wait_s(units, now)

    def charge(self, token: Token, what: Literal["calls", "texts"], units: int, now: float) -> None:
        """Charge units to a token."""
        if bucket := self._bucket(token, what, now):
            bucket.take(units, now)

    def _bucket(self, token: Token, what: Literal["calls", "texts"], now: float) -> Bucket | None:
        rate = token.rate(what)
        if rate is None:
            return None
        return self._buckets.setdefault((token.name, what), Bucket.full(*rate, now))


def check_allowed(token: Token, kind: Kind, method: str) -> None:
    """Raise PermissionDenied unless the token may call methods of this kind."""
    if kind not in token.may:
        raise PermissionDenied(
            f"token {token.name!r} may {', '.join(sorted(token.may))}; {method.rpartition('/')[2]} needs {kind}",
            metadata={"token": token.name, "needs": kind},
        )


def check_collections(token: Token, names: Sequence[str]) -> None:
    """Raise PermissionDenied unless the token may use all of these collections, whether they exist or not."""
    for name in names:
        if not token.allows(name):
            raise PermissionDenied(
                f"token {token.name!r} may not use the collection {name!r}",
                metadata={"token": token.name, "collection": name},
            )


def check_burst(token: Token, texts: int) -> None:
    """Raise QuotaExceeded if a request has more texts than the token may ever send at once."""
    rate, burst = token.rate("texts") or (0.0, math.inf)
    if texts > burst:
        raise QuotaExceeded(
            f"token {token.name!r} may send {rate:g} texts a second, {burst:g} at once; the request has {texts:,}: "
            "send fewer at a time",
            metadata={"token": token.name, "texts_per_s": f"{rate:g}", "burst": f"{burst:g}", "given": texts},
            subject=f"token:{token.name}",
        )


def over_quota(token: Token, what: Literal["calls", "texts"], wait_s: float) -> QuotaExceeded:
    """Return the error for a caller that must wait."""
    rate, burst = token.rate(what) or (0.0, 0.0)
    return QuotaExceeded(
        f"token {token.name!r} may send {rate:g} {what} a second, {burst:g} at once; try again in {wait_s:.3f} s",
        metadata={"token": token.name, f"{what}_per_s": f"{rate:g}", "burst": f"{burst:g}"},
        retry_after_s=wait_s,
        subject=f"token:{token.name}",
    )
