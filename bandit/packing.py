"""Arrays and plain values as bytes, canonically: equal contents give equal bytes, so that hashes mean something."""

from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

Packable = dict[str, Any]
T = TypeVar("T")


def pack(fields: Packable) -> bytes:
    """A flat mapping of names to numpy arrays (numeric or bool) and msgspec-encodable values, as bytes."""
    plain = {
        name: {"dtype": value.dtype.str, "shape": value.shape, "data": np.ascontiguousarray(value).tobytes()}
        if isinstance(value, np.ndarray)
        else value
        for name, value in fields.items()
    }
    return msgspec.msgpack.encode(plain, order="sorted")


def unpack(blob: bytes) -> Packable:
    """The inverse of `pack`; the arrays are read-only. Values come back as msgpack's plain types."""
    fields: Packable = msgspec.msgpack.decode(blob)
    return {name: _array(value) if _is_array(value) else value for name, value in fields.items()}


def _is_array(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"dtype", "shape", "data"}


def _array(value: dict[str, Any]) -> npt.NDArray[Any]:
    return np.frombuffer(value["data"], dtype=np.dtype(value["dtype"])).reshape(value["shape"])


def convert(value: object, to: type[T]) -> T:
    """A value that `unpack` gave as plain types, as the type it was packed from."""
    return msgspec.convert(value, to)
