"""What a child process of the server does to live and end with it."""

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


def live_with_parent() -> None:
    """Leaves Ctrl-C to the parent and, on Linux, asks to be killed when that ends; elsewhere the pipe's end must do."""
    # Ctrl-C in a terminal reaches the whole group; the parent drains first, then ends this by its pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait(seconds: float) -> bool:
    """Waits for a hint on standard input, at most so long. False where the input has ended."""
    ready, _, _ = select.select([0], [], [], seconds)
    return not ready or os.read(0, 65536) != b""
