"""What a check finds."""

from enum import Enum

import msgspec


class Severity(Enum):
    """Whether something has to be done."""

    ERROR = "error"
    """Something does not work, or is about not to."""
    WARNING = "warning"
    """It works, and is probably not meant so."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be, in words."""

    code: str
    """Names the kind of finding; the same from release to release."""
    severity: Severity
    where: str
    """The file, the directory, the server or the router that it is about."""
    found: str
    """What is the case, with figures."""
    remedy: str
    """What to do about it."""
