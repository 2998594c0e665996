"""Context to vector: named, typed features of any kind, appearing and vanishing at any time.

An encoder is a growing list of columns. Columns are only ever appended, so a row encoded earlier stays valid when
padded with zeros. What an encoder has not seen yet is reported as novel, so that the models can add the
uncertainty that comes with it.
"""

import functools
import itertools
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit.types import Features, FeatureValue, Text

Floats = npt.NDArray[np.float64]

INTERCEPT, NUMBER, FLAG, CATEGORY, TEXT, EMBEDDING = "1", "n", "f", "c", "t", "e"

_TEXT_COLUMNS = 8
_EMBEDDING_COLUMNS = 16
_OVERFLOW_COLUMNS = 8
_WORD = re.compile(r"[a-z][a-z0-9_]+")
_LONGEST_TEXT = 20_000
"""Characters of a text that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The columns known so far, by name: ``n:files``, ``c:repo=django``, ``t:title#3``, ….

    At most `cap` columns are kept. When they are used up, new categories share a few overflow columns by hash, and
    new features of other kinds are left out.
    """

    columns: tuple[str, ...] = (INTERCEPT,)
    cap: int = 64

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """Column name to position."""
        return {name: i for i, name in enumerate(self.columns)}

    @functools.cached_property
    def numbers(self) -> npt.NDArray[np.bool_]:
        """Which columns hold numbers, shape (n_columns,)."""
        return np.array([name.startswith(NUMBER + ":") for name in self.columns])

    @functools.cached_property
    def _blank(self) -> list[float]:
        """The row of no features: 0 everywhere, NaN (absent) where a number would stand."""
        blank: list[float] = np.where(self.numbers, np.nan, 0.0).tolist()
        return blank

    def grow(self, contexts: Iterable[Features]) -> "Encoder":
        """An encoder that also knows the columns of `contexts`, appended in order of appearance."""
        columns, seen = list(self.columns), set(self.columns)
        room = self.cap - _OVERFLOW_COLUMNS
        for context in contexts:
            for name in sorted(context):
                for column, _ in _cells(name, context[name]):
                    if column in seen:
                        continue
                    named = len(columns) < room
                    if not named and not isinstance(context[name], str):
                        continue
                    known = column if named else _overflow(column)
                    if known not in seen:
                        columns.append(known)
                        seen.add(known)
        return self if len(columns) == len(self.columns) else Encoder(columns=tuple(columns), cap=self.cap)

    def encode(self, context: Features) -> tuple[Floats, int]:
        """The row of a context, shape (n_columns,), and how many of its categories are novel.

        Numbers are squashed by asinh and stand unscaled (see `Scaling`), NaN where absent.
        """
        index = self.index
        # Filled as a list, which is much quicker than to set single elements of an array.
        row, novel = self._blank.copy(), 0
        row[0] = 1.0
        for name, value in context.items():
            if isinstance(value, str):
                at = self._category(_category(name, value))
                if at is None:
                    novel += 1
                else:
                    # Several categories may share an overflow column.
                    row[at] += 1.0
                continue
            for column, x in _cells(name, value):
                if (at := index.get(column)) is not None:
                    row[at] = x
        return np.array(row), novel

    def _category(self, column: str) -> int | None:
        """Where a category stands, in a column of its own or an overflow column."""
        at = self.index.get(column)
        return at if at is not None else self.index.get(_overflow(column))

    def pad(self, rows: Floats) -> Floats:
        """Rows encoded by an earlier encoder, shape (n_rows, fewer columns), widened to this one's columns."""
        extra = np.array(self._blank[rows.shape[1] :])
        return np.hstack([rows, np.broadcast_to(extra, (len(rows), len(extra)))])


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Location and spread of the number columns; 0 and 1 elsewhere. Both have shape (n_columns,)."""

    centre: Floats
    spread: Floats

    @classmethod
    def fit(cls, encoder: Encoder, rows: Floats) -> "Scaling":
        """From encoded rows, shape (n_rows, n_columns); a column seen fewer than twice keeps spread 1."""
        width = len(encoder.columns)
        centre, spread = np.zeros(width), np.ones(width)
        for at in np.flatnonzero(encoder.numbers):
            seen = rows[:, at][~np.isnan(rows[:, at])]
            if len(seen):
                centre[at] = seen.mean()
            if len(seen) > 1 and (sd := float(seen.std())) > 1e-9:
                spread[at] = sd
        return cls(centre=centre, spread=spread)

    def apply(self, rows: Floats) -> Floats:
        """Standardised rows; an absent number becomes 0, its mean. A number is held within 6 spreads of it."""
        scaled = (rows - self.centre) / self.spread
        return np.asarray(np.clip(np.nan_to_num(scaled, nan=0.0), -6.0, 6.0))

    def pad(self, width: int) -> "Scaling":
        """The same, for more columns, which stand unscaled."""
        extra = width - len(self.centre)
        return Scaling(
            centre=np.concatenate([self.centre, np.zeros(extra)]), spread=np.concatenate([self.spread, np.ones(extra)])
        )


def without_texts(features: Features) -> Features:
    """The features with their texts in hashed form alone: their columns are the same, so nothing else changes."""
    if not any(isinstance(value, Text) for value in features.values()):
        return features
    return {
        name: Text(hashed=value.hashed or _hashed_words(value.text[:_LONGEST_TEXT]))
        if isinstance(value, Text)
        else value
        for name, value in features.items()
    }


def _overflow(column: str) -> str:
    return f"#{zlib.crc32(column.encode()) % _OVERFLOW_COLUMNS}"


def _category(name: str, value: str) -> str:
    return f"{CATEGORY}:{name}={value}"


def _cells(name: str, value: FeatureValue) -> Sequence[tuple[str, float]]:
    """The (column, value) pairs of one feature."""
    if isinstance(value, bool):
        return ((f"{FLAG}:{name}", 1.0 if value else -1.0),)
    if isinstance(value, str):
        return ((_category(name, value), 1.0),)
    if isinstance(value, Text):
        words = value.hashed or _hashed_words(value.text[:_LONGEST_TEXT])
        return list(zip(_numbered(TEXT, name, len(words)), words, strict=True))
    if isinstance(value, tuple):
        projected = _projected(value)
        return list(zip(_numbered(EMBEDDING, name, len(projected)), projected, strict=True))
    return ((f"{NUMBER}:{name}", math.asinh(value)),)


@functools.lru_cache(maxsize=1024)
def _numbered(kind: str, name: str, count: int) -> tuple[str, ...]:
    """The columns of one feature that has several."""
    return tuple(f"{kind}:{name}#{i}" for i in range(count))


@functools.lru_cache(maxsize=4096)
def _hashed_words(text: str) -> tuple[float, ...]:
    """Signed hashing of a text's words and word pairs, L2-normalised, and last the log of its length.

    Weinberger et al., Feature hashing for large scale multitask learning (2009). crc32 because it is the same
    everywhere; nothing here needs to resist an adversary, who could only spoil the estimate for texts like his own.
    """
    words = _WORD.findall(text.lower())
    sums = [0.0] * _TEXT_COLUMNS
    for token in {*words, *map(" ".join, itertools.pairwise(words))}:
        h = zlib.crc32(token.encode())
        sums[h % _TEXT_COLUMNS] += 1.0 if h & 0x100 else -1.0
    norm = math.sqrt(sum(s * s for s in sums)) or 1.0
    return (*(s / norm for s in sums), (math.log1p(len(text)) - 6.0) / 2.0)


@functools.lru_cache(maxsize=16)
def _projection(size: int) -> Floats:
    """A fixed random projection of many dimensions to a few (Johnson & Lindenstrauss 1984)."""
    normals = np.random.Generator(np.random.PCG64(size)).standard_normal((_EMBEDDING_COLUMNS, size))
    return normals / math.sqrt(_EMBEDDING_COLUMNS)


def _projected(embedding: tuple[float, ...]) -> Sequence[float]:
    """A client's embedding at a fixed length (its scale means nothing), projected where it has many dimensions."""
    largest = max(map(abs, embedding), default=0.0)
    if largest == 0.0:
        return ()
    # Divided first, so that squares neither overflow nor vanish.
    scaled = [x / largest for x in embedding]
    length = math.sqrt(min(len(scaled), _EMBEDDING_COLUMNS) / sum(x * x for x in scaled))
    if len(scaled) <= _EMBEDDING_COLUMNS:
        return [x * length for x in scaled]
    projected: list[float] = (_projection(len(scaled)) @ (np.array(scaled) * length)).tolist()
    return projected
