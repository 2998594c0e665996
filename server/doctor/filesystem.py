"""On what a directory lies."""

from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"})
"""File systems that others can write to at the same time, and whose locks and syncs are another machine's word."""
VOLATILE = frozenset({"tmpfs", "ramfs"})
"""File systems in memory."""


def kind(path: Path, mounts: str | None = None) -> str:
    """The file system's name, such as `ext4`; empty where this system does not tell.

    `mounts` are those of a process, as Linux lists them in /proc/PID/mountinfo; None: of this one.
    """
    if mounts is None:
        if not _MOUNTS.exists():
            return ""
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    where = path.resolve()
    best, found = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        # Blanks and the like are escaped as octal numbers.
        mounted = Path(before.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape"))
        # Of several at one place the last one hides the others.
        if where.is_relative_to(mounted) and len(mounted.parts) >= best:
            best, found = len(mounted.parts), after.split(" ")[0]
    return found
