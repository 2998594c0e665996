"""Packing: what comes back is what went in, and equal contents give equal bytes in any process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandit import packing
from bandit.types import Arm, Figure, Price

ROOT = Path(__file__).resolve().parents[2]

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float64, np.int64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text()
FIELDS = st.dictionaries(st.text(max_size=8), ARRAYS | PLAIN | st.lists(PLAIN, max_size=3), max_size=5)


@settings(deadline=None)
@given(FIELDS)
def test_unpack_is_the_inverse_of_pack(fields: dict[str, object]) -> None:
    again = packing.unpack(packing.pack(fields))
    assert again.keys() == fields.keys()
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            assert again[name].dtype == value.dtype
            assert again[name].shape == value.shape
            np.testing.assert_array_equal(again[name], value)
        else:
            assert again[name] == value


@settings(deadline=None)
@given(FIELDS)
def test_bytes_do_not_depend_on_the_order_of_the_fields(fields: dict[str, object]) -> None:
    assert packing.pack(dict(reversed(fields.items()))) == packing.pack(fields)


def test_bytes_do_not_depend_on_how_an_array_lies_in_memory() -> None:
    a = np.arange(24.0).reshape(2, 3, 4)
    packed = packing.pack({"a": a})
    assert packing.pack({"a": np.asfortranarray(a)}) == packed
    assert packing.pack({"a": np.repeat(a, 2, axis=1)[:, ::2]}) == packed
    assert packing.pack({"a": a.astype(np.float32)}) != packed


def test_nothing_can_be_written_into_what_was_unpacked() -> None:
    a = packing.unpack(packing.pack({"a": np.zeros(3)}))["a"]
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 1.0


def test_structs_come_back_by_convert() -> None:
    arms = (
        Arm(id="a", price=Price(input_usd=1.0), capabilities=frozenset("xyz")),
        Arm(id="b", figures=(Figure(success_rate=0.5),), retired=True),
    )
    assert packing.convert(packing.unpack(packing.pack({"arms": arms}))["arms"], tuple[Arm, ...]) == arms


def test_bytes_are_the_same_in_a_process_that_hashes_otherwise() -> None:
    """Sets are iterated in the order of their hashes, which differs by process."""
    program = (
        "from bandit import packing; from bandit.types import Arm; "
        "print(packing.pack({'arms': (Arm(id='a', capabilities=frozenset('qwertyuiop')),)}).hex())"
    )
    packed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(packed) == 1
