"""Encoding: columns only ever grow, any value has a row, and the same context has the same row everywhere."""

import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.features import Encoder, Scaling, without_texts
from bandit.types import Features, Text

ROOT = Path(__file__).resolve().parents[2]

VALUES = (
    st.floats(allow_nan=True, allow_infinity=False)
    | st.booleans()
    | st.text(max_size=6)
    | st.builds(Text, st.text(max_size=40))
    | st.lists(st.floats(-1e300, 1e300), max_size=20).map(tuple)
)
CONTEXTS = st.dictionaries(st.text("abc:=#", min_size=1, max_size=3), VALUES, max_size=4)


@settings(deadline=None)
@given(blocks=st.lists(st.lists(CONTEXTS, max_size=3), max_size=4), cap=st.integers(9, 80))
def test_columns_are_appended_only_and_rows_stay_valid(blocks: list[list[Features]], cap: int) -> None:
    encoder = Encoder(cap=cap)
    for contexts in blocks:
        grown = encoder.grow(contexts)
        assert grown.columns[: len(encoder.columns)] == encoder.columns
        assert len(set(grown.columns)) == len(grown.columns) <= cap
        for context in contexts:
            # A row from before, padded, still says what it said; what it could not say is blank.
            before, _ = encoder.encode(context)
            now, novel = grown.encode(context)
            assert novel == 0
            padded = grown.pad(before[None])[0]
            told = now[: len(before)]
            if not any(column.startswith("#") for column in encoder.columns):
                assert np.array_equal(padded[: len(before)], told, equal_nan=True)
            assert np.all(np.isnan(padded[len(before) :]) == grown.numbers[len(before) :])
        encoder = grown


@settings(deadline=None)
@given(CONTEXTS)
def test_the_order_in_which_features_are_named_does_not_matter(context: Features) -> None:
    reverse = dict(reversed(context.items()))
    assert Encoder().grow([context]).columns == Encoder().grow([reverse]).columns
    encoder = Encoder().grow([context])
    assert encoder.encode(context)[0] == pytest.approx(encoder.encode(reverse)[0], nan_ok=True)


@settings(deadline=None)
@given(context=CONTEXTS, others=st.lists(CONTEXTS, max_size=4))
def test_a_scaled_row_is_finite_and_bounded(context: Features, others: list[Features]) -> None:
    encoder = Encoder().grow(others)
    rows = np.array([encoder.encode(c)[0] for c in others]).reshape(len(others), len(encoder.columns))
    scaling = Scaling.fit(encoder, rows)
    row, _ = encoder.encode(context)
    scaled = scaling.apply(row)
    assert np.all(np.abs(scaled) <= 6.0)
    assert scaled[0] == 1.0


def test_what_an_encoder_keeps_is_not_changed_by_growing_or_encoding() -> None:
    encoder = Encoder().grow([{"lang": "python", "files": 3.0}])
    columns = encoder.columns
    encoder.grow([{"lang": "go"}])
    row, _ = encoder.encode({"lang": "python"})
    row[:] = 7.0
    assert encoder.columns == columns == ("1", "n:files", "c:lang=python")
    assert encoder.encode({"lang": "python", "files": 0.0})[0].tolist() == [1.0, 0.0, 1.0]
    assert encoder.grow([{"lang": "python"}]) is encoder


@pytest.mark.parametrize(
    ("value", "column", "cell"),
    [
        (12.0, "n:x", math.asinh(12.0)),
        (-1e300, "n:x", math.asinh(-1e300)),
        (True, "f:x", 1.0),
        (False, "f:x", -1.0),
        ("12", "c:x=12", 1.0),
        ("", "c:x=", 1.0),
    ],
)
def test_cells(value: float | bool | str, column: str, cell: float) -> None:
    encoder = Encoder().grow([{"x": value}])
    assert encoder.columns == ("1", column)
    assert encoder.encode({"x": value})[0][1] == cell


def test_types_of_one_name_do_not_run_into_each_other() -> None:
    encoder = Encoder().grow([{"x": 1.0}, {"x": True}, {"x": "1"}, {"x": Text("1")}, {"x": (1.0,)}])
    assert {"n:x", "f:x", "c:x=1", "t:x#0", "e:x#0"} <= set(encoder.columns)


def test_beyond_the_cap_categories_share_a_few_columns() -> None:
    contexts: list[Features] = [{"repo": f"r{i}"} for i in range(500)]
    encoder = Encoder(cap=20).grow(contexts)
    assert len(encoder.columns) == 20
    named = [c for c in encoder.columns if not c.startswith("#")]
    assert named == ["1", *(f"c:repo=r{i}" for i in range(11))]
    for context in contexts:
        row, novel = encoder.encode(context)
        assert (row.sum(), novel) == (2.0, 0)
    # Growing by parts or at once comes to the same.
    parts = Encoder(cap=20)
    for i in range(0, 500, 7):
        parts = parts.grow(contexts[i : i + 7])
    assert parts == encoder


def test_a_number_beyond_the_cap_does_not_disturb_categories() -> None:
    encoder = Encoder(cap=20).grow([{"repo": f"r{i}"} for i in range(500)]).grow([{"bytes": 1e6}])
    plain, _ = encoder.encode({"repo": "r400"})
    disturbed, _ = encoder.encode({"repo": "r400", "bytes": 1e6})
    assert np.abs(disturbed - plain).max() <= 1.0


def test_novel_counts_categories_that_have_no_column() -> None:
    encoder = Encoder().grow([{"repo": "a", "lang": "go", "files": 2.0}])
    assert encoder.encode({"repo": "a", "lang": "go"})[1] == 0
    assert encoder.encode({"repo": "b", "lang": "go"})[1] == 1
    assert encoder.encode({"repo": "b", "lang": "c", "other": "x"})[1] == 3
    # A number, a flag or a text that was never seen says nothing, and its absence is the rule.
    assert encoder.encode({"loc": 3.0, "ci": True, "title": Text("fix")})[1] == 0


def test_absent_and_nan_numbers_stand_at_their_mean() -> None:
    encoder = Encoder().grow([{"n": 1.0}])
    contexts: list[Features] = [{"n": 1.0}, {"n": 30.0}, {}, {"n": 7.0}, {"n": math.nan}]
    rows = np.array([encoder.encode(context)[0] for context in contexts])
    scaling = Scaling.fit(encoder, rows)
    seen = np.arcsinh([1.0, 30.0, 7.0])
    scaled = scaling.apply(rows)[:, 1]
    assert scaling.centre[1] == pytest.approx(seen.mean())
    assert scaled[[0, 1, 3]] == pytest.approx((seen - seen.mean()) / seen.std())
    assert scaled[2] == scaled[4] == 0.0


@pytest.mark.parametrize("seen", [[], [5.0], [5.0, 5.0, 5.0]])
def test_numbers_without_spread_keep_spread_one(seen: list[float]) -> None:
    encoder = Encoder(columns=("1", "n:x"))
    rows = np.array([encoder.encode({"x": x})[0] for x in seen]).reshape(len(seen), 2)
    scaling = Scaling.fit(encoder, rows)
    assert scaling.spread.tolist() == [1.0, 1.0]
    assert scaling.apply(encoder.encode({"x": 5.0})[0])[1] == pytest.approx(0.0 if seen else math.asinh(5.0))


def test_padding_a_scaling_leaves_new_columns_alone() -> None:
    scaling = Scaling(centre=np.array([0.0, 2.0]), spread=np.array([1.0, 0.5])).pad(4)
    assert scaling.apply(np.array([1.0, 3.0, 4.0, -0.25])).tolist() == [1.0, 2.0, 4.0, -0.25]


def embedded(*vectors: tuple[float, ...]) -> list[np.ndarray]:
    encoder = Encoder().grow([{"v": vector} for vector in vectors])
    return [encoder.encode({"v": vector})[0][1:] for vector in vectors]


@pytest.mark.parametrize("size", [1, 2, 16, 17, 1000])
def test_the_scale_of_an_embedding_means_nothing(size: int) -> None:
    vector = np.random.default_rng(size).standard_normal(size)
    one, large, tiny = embedded(*(tuple((vector * s).tolist()) for s in (1.0, 1e280, 1e-280)))
    assert len(one) == min(size, 16)
    assert large == pytest.approx(one)
    assert tiny == pytest.approx(one)


@pytest.mark.parametrize("vector", [(), (0.0,), (0.0,) * 1000])
def test_an_embedding_of_nothing_is_absent(vector: tuple[float, ...]) -> None:
    assert Encoder().grow([{"v": vector}]).columns == ("1",)
    encoder = Encoder().grow([{"v": (1.0, 2.0)}])
    assert encoder.encode({"v": vector})[0].tolist() == [1.0, 0.0, 0.0]


def test_projection_keeps_what_is_near() -> None:
    """Cosines of 16 projected dimensions are off by about 1/4 (Johnson-Lindenstrauss); twins stay twins."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 1000))
    projected = np.array(embedded(*(tuple(v.tolist()) for v in vectors)))
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(20, 1)]
    assert np.sqrt(np.mean(cosines**2)) == pytest.approx(0.25, abs=0.05)
    twin = vectors[0] + 0.01 * rng.standard_normal(1000)
    a, b = embedded(tuple(vectors[0].tolist()), tuple(twin.tolist()))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


def test_an_embedding_weighs_the_same_whatever_its_size() -> None:
    """The mean square of a column is 1 up to a relative error of sqrt(2 / (16 x 20)) = .08; six of them are allowed."""
    rng = np.random.default_rng(2)
    for size in (4, 16, 64, 1536):
        rows = np.array(embedded(*(tuple(v.tolist()) for v in rng.standard_normal((20, size)))))
        assert np.mean(rows**2) == pytest.approx(1.0, abs=0.5)


def test_texts_that_share_words_are_near_each_other() -> None:
    encoder = Encoder().grow([{"t": Text("x")}])

    def row(text: str) -> np.ndarray:
        return encoder.encode({"t": Text(text)})[0][1:-1]

    assert np.linalg.norm(row("fix the flaky parser test")) == pytest.approx(1.0)
    assert row("Fix the flaky PARSER test") == pytest.approx(row("fix the flaky parser test"))
    assert np.all(row("") == 0.0)
    assert np.all(row("ok " * 100_000) == row("ok " * 10_000))
    # Its length is a column of its own.
    lengths = [encoder.encode({"t": Text("a" * n)})[0][-1] for n in (0, 10, 1000, 10**6)]
    assert lengths == sorted(lengths)


def test_the_same_text_has_the_same_row_in_every_process() -> None:
    program = (
        "from bandit.features import Encoder; from bandit.types import Text\n"
        "c = {'t': Text('Fix the flaky parser test'), 'v': tuple(range(40)), 'repo': 'django', 'n': 3.0}\n"
        "e = Encoder(cap=20).grow([c]); print(e.columns, e.encode(c)[0].tobytes().hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(printed) == 1


@given(CONTEXTS)
def test_hashed_texts_have_the_columns_of_the_texts(context):
    hashed = without_texts(context)
    assert not any(isinstance(value, Text) and value.text for value in hashed.values())
    encoder, other = Encoder().grow([context]), Encoder().grow([hashed])
    assert encoder == other
    assert np.array_equal(encoder.encode(context)[0], encoder.encode(hashed)[0], equal_nan=True)
    texts = {name: value for name, value in hashed.items() if isinstance(value, Text)}
    logged = {**hashed, **msgspec.json.decode(msgspec.json.encode(texts), type=Features)}
    assert np.array_equal(encoder.encode(context)[0], encoder.encode(logged)[0], equal_nan=True)
    assert without_texts(hashed) == hashed
