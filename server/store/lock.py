"""One server per data directory."""

import fcntl
import os
from pathlib import Path

from server.store.errors import StoreLocked


class DirectoryLock:
    """An exclusive lock on a data directory, held until `release` or the end of the process, however it ends.

    A forked child would inherit it: start child processes with "spawn" or exec.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock in the file `path`. Raises StoreLocked at once if somebody has it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who has it is told to whoever finds it taken.
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise StoreLocked(f"{path.parent} is in use by another server, process {holder or '?'}") from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._fd)
