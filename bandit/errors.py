"""What the domain refuses. One table in the server maps each of these to a gRPC status."""

from collections.abc import Mapping


class PointsmanError(Exception):
    """Base of every error the domain raises on purpose; its text is meant for the caller."""


class InvalidInput(PointsmanError):
    """A value from outside lies outside its domain.

    `field` is the path of the offending field as the caller spelt it, e.g. ``features.files``.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(field, why)  # all arguments, so that the error can cross to another process
        self.field = field
        self.why = why

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


class Unknown(PointsmanError):
    """An id that names nothing: a router, arm, session or decision that was never seen."""

    def __init__(self, field: str, what: str, name: str) -> None:
        super().__init__(field, what, name)
        self.field = field
        self.what = what
        self.name = name

    def __str__(self) -> str:
        return f"no {self.what} {self.name!r}"


class AlreadyThere(PointsmanError):
    """An id that is to name something new is in use."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(what, name)
        self.what = what
        self.name = name

    def __str__(self) -> str:
        return f"there is a {self.what} {self.name!r} already"


class WrongOrder(PointsmanError):
    """The call is well formed but comes too late: its decision is stale, exhausted or final."""


class NoEligibleArm(PointsmanError):
    """Every arm is ruled out; `reasons` says why for each (arm id to reason)."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(dict(reasons))
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        listed = "; ".join(f"{arm}: {why}" for arm, why in self.reasons.items()) or "the router has no arms"
        return f"no eligible arm ({listed})"
