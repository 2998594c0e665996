"""How much callers may send: every bound in one place."""

from typing import Annotated

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of what a request may hold, and of how many there may be."""

    message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    """A whole request."""
    id_chars: _Count = 256
    """An id, a category, a name, a capability."""
    text_chars: _Count = 65_536
    """A text feature."""
    features: _Count = 256
    """Features of one request; also its metrics."""
    embedding: _Count = 4096
    """Numbers in one embedding."""
    list_items: _Count = 1024
    """Entries of `allow`, `deny`, `required_capabilities`, of an arm's capabilities and figures."""
    batch: _Count = 1024
    """Requests of one BatchSelect."""
    pending_requests: _Count = 1024
    """Calls that wait for their answer at once; beyond, callers are told when to come back."""
    pending_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**40)] = 64 * 1024 * 1024
    """Of the messages of those calls."""
    streams: _Count = 64
    """Exports, imports and other streams at once."""
    sessions_per_second: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] | None = None
    """Sessions that each caller may begin, a token or all who need none; None: any number. A token may have its own."""
    cached_sessions: _Count = 10_000
    """Sessions kept in memory; others are read back from the log when they are asked for."""
