"""Hostile requests: messages of every shape that the protos allow, with values at and beyond every edge, and bytes
that were messages once."""

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_DEEPEST = 6
_INTEGERS = (0, 1, 2, 3, 17, -1, 100, 2**31 - 1, -(2**31), 2**53, 2**53 + 1, 2**63 - 1, -(2**63))
_FLOATS = (
    *(0.0, -0.0, 1.0, 0.5, 0.02, -1.0, 1e-320, 5e-324, 1e12, 1.01e12, 1.7e308, -1.7e308),
    *(float("inf"), float("-inf"), float("nan")),
)
_TEXTS = (
    *("", " ", "a\nb", "a\0b", "\x7f", "\u202e", "\N{SNOWMAN}", "\U0010ffff", "x" * 256, "x" * 257, "%s%n", "../../x"),
    *(
        "'; DROP TABLE events;--",
        "<script>",
        "${x}",
        "nan",
        "1e999",
        "[",
        "{",
        "default",
        "NaN",
        "null",
        "e\u0301" * 90,
    ),
)
_GATES = (
    *(
        "success >= baseline",
        "cost <= 0.8 * baseline - 1e308",
        "success >= 1e999 * baseline",
        "utility <= baseline and",
    ),
    *(
        "success >= baseline - 0.02 and cost <= 0.8 * baseline",
        "success >= baseline" * 99,
        "success >= __import__('os')",
    ),
)
_POLICIES = (
    *("thompson", "thompson-single", "uniform", "epsilon", "linucb", "vw:squarecb", "vw:bag", "always:a", "ladder:a>b"),
    *(
        "threshold:0.7",
        "threshold:nan",
        "always:",
        "ladder:",
        "ladder:a>a",
        "vw:nothing",
        'policy = "uniform"\nalpha = 0',
    ),
    *('policy = "thompson"\ndraws = 8\n[objective]\nvalue_usd = 1e308', "policy = [", 'policy = "thompson"\nx = 1'),
)
_NAMED = {
    "router": ("", "", "", "default", "default", "default", "default", "default", "second", "no such"),
    "arm": ("a", "b", "c", "d", "no such"),
    "policy": _POLICIES,
    "policy_version": ("1", "2", "3", "4", "0", "-1", "no such"),
    "gate": _GATES,
    "request_id": ("", "", *(f"request-{i}" for i in range(40))),
    "capabilities": ("vision", "browser", "no such"),
    "kind": ("decided", "rewarded", "escalated", "router_put", "arm_put", "erased", "no such"),
}
_LIKE = {
    "pinned_arm": "arm",
    "served_arm": "arm",
    "baseline_arm": "arm",
    "predecessor": "arm",
    "allow": "arm",
    "deny": "arm",
    "id": "arm",
    "required_capabilities": "capabilities",
}


class Hostility:
    """Makes requests out of one stream of randomness. What a server told is used again: `decisions` and `sessions`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.decisions: list[str] = ["no such"]
        self.sessions: list[str] = ["", *(f"session-{i}" for i in range(30))]
        self._bytes: list[bytes] = [b"\xff" * 12, b"\x0a\x7fshort", b""]

    def message(self, descriptor: Descriptor) -> Message:
        """A message of that type: most of its values are plausible, so that it gets past the first check."""
        made = message_factory.GetMessageClass(descriptor)()
        self._fill(made, 0, self._rng.choice((0.0, 0.0, 0.02, 0.1, 0.5)))
        return made

    def damaged(self, data: bytes) -> bytes:
        """Bytes that are no such message any more, or another one."""
        rng, changed = self._rng, bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            at = rng.randrange(len(changed) + 1)
            match rng.randrange(7):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << rng.randrange(8)
                case 1:
                    changed[at:at] = rng.randbytes(rng.choice((1, 1, 4, 64)))
                case 2:
                    del changed[at : at + rng.choice((1, 1, 4, 64))]
                case 3:
                    del changed[at:]
                case 4:
                    other = rng.choice(self._bytes)
                    changed[at:at] = other[rng.randrange(len(other) + 1) :][:256]
                case 5:
                    changed[at:at] = changed[max(0, at - rng.randrange(1, 65)) : at]
                case _ if at < len(changed):
                    changed[at] = rng.randrange(256)
        self._bytes[rng.randrange(len(self._bytes)) if len(self._bytes) > 200 else 0 : 0] = [data[:4096]]
        return bytes(changed)

    def _fill(self, message: Message, depth: int, hostile: float) -> None:
        rng, fields = self._rng, message.DESCRIPTOR.fields
        for field in fields:
            if rng.random() < 0.35 + 0.1 * depth or depth > _DEEPEST:
                continue
            if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name) is not None:
                continue
            self._set(message, field, depth, hostile)

    def _set(self, message: Message, field: FieldDescriptor, depth: int, hostile: float) -> None:
        rng = self._rng
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            for _ in range(rng.randrange(4)):
                key = self._text("feature", hostile)
                if value.message_type is not None:
                    self._fill(getattr(message, field.name)[key], depth + 1, hostile)
                else:
                    getattr(message, field.name)[key] = self._value(value, hostile)
        elif field.is_repeated:
            count = 300 if rng.random() < hostile / 20 else rng.randrange(4)
            for _ in range(count):
                if field.message_type is not None:
                    self._fill(getattr(message, field.name).add(), depth + 1, hostile)
                else:
                    getattr(message, field.name).append(self._value(field, hostile))
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self._fill(inner, depth + 1, hostile)
        else:
            setattr(message, field.name, self._value(field, hostile))

    def _value(self, field: FieldDescriptor, hostile: float) -> Any:
        rng = self._rng
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.choice((b"", b"{}", rng.randbytes(16), rng.randbytes(32)))
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(field.name, hostile)
            case FieldDescriptor.CPPTYPE_BOOL:
                return rng.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                known = [value.number for value in field.enum_type.values]
                return rng.choice((77, -1)) if rng.random() < hostile else rng.choice(known)
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return (
                    rng.choice(_FLOATS) if rng.random() < hostile else rng.choice((0.0, 0.25, 1.0, rng.random() * 10))
                )
            case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_UINT32:
                number = rng.choice(_INTEGERS) if rng.random() < hostile else rng.randrange(9)
                lowest = 0 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT32 else -(2**31)
                return min(max(number, lowest), 2**31 - 1)
            case FieldDescriptor.CPPTYPE_UINT64:
                return rng.choice((0, 1, 2**53, 2**64 - 1)) if rng.random() < hostile else rng.randrange(9)
            case _:
                return rng.choice(_INTEGERS) if rng.random() < hostile else rng.randrange(9)

    def _text(self, name: str, hostile: float) -> str:
        rng = self._rng
        if rng.random() < hostile:
            return rng.choice(_TEXTS)
        if name in ("decision_id", "next_decision_id"):
            return rng.choice(self.decisions)
        if name in ("session_id", "session_ids"):
            return rng.choice(self.sessions)
        known: Sequence[str] = _NAMED.get(_LIKE.get(name, name), ("x", "y", "project", "user", "organisation"))
        return rng.choice(known)
