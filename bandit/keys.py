"""The keys of TOML files that set numbers of the domain: their names and domains, and what is wrong with one, named.

The configuration and policy files share them. A key that is absent (None) leaves the setting as it is.
"""

import re
import tomllib
from typing import Annotated, Any, TypeVar

import msgspec

from bandit.errors import InvalidInput
from bandit.types import Objective, Preset, RouterSettings

NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
MOST_ATTEMPTS = 16
MOST_DRAWS = 4096
"""Sixteen times the default: a decision's time and memory grow with its draws, and other requests wait for it."""
MOST_SEED = 2**63 - 1
Attempts = Annotated[int, msgspec.Meta(ge=1, le=MOST_ATTEMPTS)]
Draws = Annotated[int, msgspec.Meta(ge=1, le=MOST_DRAWS)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=MOST_SEED)]

_UNKNOWN = re.compile(r"^Object contains unknown field `([^`]+)`(?: - at `\$(.+)`)?$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`(?: - at `\$(.+)`)?$")
_OTHER = re.compile(r"^(.+?)(?: - at `\$(.+)`)?$", re.DOTALL)

T = TypeVar("T")
_Settings = TypeVar("_Settings", Objective, RouterSettings)


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table in which an unknown key is an error."""


class ObjectiveKeys(Strict, frozen=True, kw_only=True):
    """The table `objective`: the fields of `types.Objective`, and `preset` in the place of `value_usd`."""

    preset: Preset | None = None
    value_usd: Positive | None = None
    """Wins over the preset."""
    latency_usd_per_second: NotNegative | None = None
    quality_floor: Share | None = None
    quality_floor_relative: bool | None = None
    budget_usd: Positive | None = None
    budget_period_seconds: Positive | None = None
    session_cap_usd: NotNegative | None = None

    def over(self, objective: Objective) -> Objective:
        """The objective with what is set here."""
        value_usd = self.preset.value_usd if self.preset is not None else None
        return changed(objective, **{"value_usd": value_usd, **given(self, leave_out=("preset",))})


def given(keys: Strict, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys that are there, with their values."""
    there = msgspec.structs.asdict(keys)
    return {key: value for key, value in there.items() if value is not None and key not in leave_out}


def changed(settings: _Settings, **fields: Any) -> _Settings:
    """The settings with those fields that are not None."""
    return msgspec.structs.replace(settings, **{key: value for key, value in fields.items() if value is not None})


def loads(text: str, kind: type[T]) -> T:
    """A TOML text as a value of `kind`. Raises InvalidInput naming the key; the field is empty for bad TOML."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("", f"not TOML: {error}") from error
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise _named(error) from error


def _named(error: msgspec.ValidationError) -> InvalidInput:
    """msgspec's complaint, with the key as the file spells it, e.g. ``arms[1].colour``."""
    for pattern, why in ((_UNKNOWN, "unknown key"), (_MISSING, "required")):
        if (found := pattern.match(str(error))) is not None:
            return InvalidInput(f"{found.group(2) or ''}.{found.group(1)}".lstrip("."), why)
    complaint = _OTHER.match(str(error))
    assert complaint is not None
    return InvalidInput((complaint.group(2) or "").lstrip("."), complaint.group(1))
