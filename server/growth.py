"""News that the log has grown, for whoever follows it on the event loop."""

import asyncio
from contextlib import suppress


class Growth:
    """Wakes those who wait. A missed wake-up costs no more than their patience: the log itself is what they read."""

    def __init__(self) -> None:
        self._grown = asyncio.Event()

    def tell(self) -> None:
        """The log has grown: wakes everybody who waits now."""
        self._grown.set()
        self._grown = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Is set when the log has grown after this call."""
        return self._grown


async def wait(grown: asyncio.Event, seconds: float) -> None:
    """Returns when it is set, at the latest after so many seconds."""
    with suppress(TimeoutError):
        await asyncio.wait_for(grown.wait(), seconds)
