"""`pointsman.toml`: what an operator may set, with a default for everything; what is wrong is named with its line."""

import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bandit import policy
from bandit.errors import InvalidInput
from bandit.types import Arm, Figure, Objective, Price, RouterSettings
from server.limits import Limits
from server.routers import RouterConfig

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
_Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class ConfigError(Exception):
    """The configuration cannot be used; the text is one line that says what and where."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table in which an unknown key is an error."""


class Service(_Strict, frozen=True, kw_only=True):
    """Where the service listens, keeps its data and fits."""

    listen: str = "127.0.0.1:50051"
    http: str = "127.0.0.1:8080"
    data_dir: str = "pointsman-data"
    fitter: Literal["beside", "inline"] = "beside"
    """In a process of its own, or in this one before the next Select, for reproducible tests."""


class _Figure(_Strict, frozen=True, kw_only=True):
    category: _Id | None = None
    success_rate: _Share
    cost_usd: _NotNegative | None = None


class _Arm(_Strict, frozen=True, kw_only=True):
    id: _Id
    provider: str = ""
    input_usd_per_million: _NotNegative | None = None
    output_usd_per_million: _NotNegative | None = None
    cached_usd_per_million: _NotNegative | None = None
    capabilities: list[_Id] = []
    figures: list[_Figure] = []

    def arm(self) -> Arm:
        priced = (self.input_usd_per_million, self.output_usd_per_million, self.cached_usd_per_million)
        return Arm(
            id=self.id,
            provider=self.provider,
            price=Price(input_usd=priced[0] or 0.0, output_usd=priced[1] or 0.0, cached_usd=priced[2])
            if any(price is not None for price in priced)
            else None,
            capabilities=frozenset(self.capabilities),
            figures=tuple(
                Figure(category=figure.category, success_rate=figure.success_rate, cost_usd=figure.cost_usd)
                for figure in self.figures
            ),
        )


class _Objective(_Strict, frozen=True, kw_only=True):
    value_usd: _Positive = Objective().value_usd


class _Router(_Strict, frozen=True, kw_only=True):
    id: _Id = RouterSettings().id
    policy: str = RouterSettings().policy
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = RouterSettings().seed
    objective: _Objective = _Objective()
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=16)] = RouterSettings().max_attempts
    exploration_floor: _Share = RouterSettings().exploration_floor
    draws: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = RouterSettings().draws
    alpha: _Positive = RouterSettings().alpha

    def settings(self) -> RouterSettings:
        return RouterSettings(
            id=self.id,
            policy=self.policy,
            seed=self.seed,
            objective=Objective(value_usd=self.objective.value_usd),
            max_attempts=self.max_attempts,
            exploration_floor=self.exploration_floor,
            draws=self.draws,
            alpha=self.alpha,
        )


class _File(_Strict, frozen=True, kw_only=True):
    service: Service = Service()
    limits: Limits = Limits()
    router: _Router | None = None
    routers: list[_Router] = []
    arms: list[_Arm] = []


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole, valid configuration."""

    service: Service
    limits: Limits
    routers: tuple[RouterConfig, ...]
    bundled: bool
    """Nobody configured anything: the routers are a proposal for an empty log, and change nothing in another."""


def load(path: Path | None) -> Config:
    """The configuration in a file, or without one the bundled catalogue. Raises ConfigError."""
    if path is None:
        text, name = resources.files("server").joinpath("catalogue.toml").read_text(encoding="utf-8"), "catalogue.toml"
    else:
        name = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read: {error}") from error
    return parse(text, name, bundled=path is None)


def parse(text: str, name: str, *, bundled: bool = False) -> Config:
    """The configuration in a text; `name` is what errors call it. Raises ConfigError."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    except msgspec.ValidationError as error:
        raise _located(name, text, error) from error
    arms = tuple(arm.arm() for arm in file.arms)
    _require_unique(name, text, "arms", [arm.id for arm in file.arms])
    if file.router is not None and file.routers:
        raise _at(name, text, ["routers", 0], "give either [router] or [[routers]]")
    routers = file.routers or [file.router or _Router()]
    _require_unique(name, text, "routers", [router.id for router in routers])
    for i, router in enumerate(routers):
        try:
            policy.parse(router.policy).start(arms)
        except InvalidInput as error:
            place: list[str | int] = ["routers", i, "policy"] if file.routers else ["router", "policy"]
            raise _at(name, text, place, f"policy: {error.why}") from error
    return Config(
        service=file.service,
        limits=file.limits,
        routers=tuple(RouterConfig(settings=router.settings(), arms=arms) for router in routers),
        bundled=bundled,
    )


def _require_unique(name: str, text: str, table: str, ids: list[str]) -> None:
    for i, given in enumerate(ids):
        if given in ids[:i]:
            raise _at(name, text, [table, i, "id"], f"id: {given!r} is there twice")


# --- where in the text -------------------------------------------------------------------------------------------

_UNKNOWN = re.compile(r"^Object contains unknown field `([^`]+)`(?: - at `(.+)`)?$")
_OTHER = re.compile(r"^(.+?)(?: - at `(.+)`)?$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_-]+))\s*(\.|=)""")


def _located(name: str, text: str, error: msgspec.ValidationError) -> ConfigError:
    """msgspec's complaint with key and line."""
    if (unknown := _UNKNOWN.match(str(error))) is not None:
        path = [*_path(unknown.group(2)), unknown.group(1)]
        return _at(name, text, path, f"unknown key {_spelt(path)!r}")
    complaint = _OTHER.match(str(error))
    assert complaint is not None
    path = _path(complaint.group(2))
    return _at(name, text, path, f"{_spelt(path)}: {complaint.group(1)}")


def _at(name: str, text: str, path: list[str | int], what: str) -> ConfigError:
    line = _line(text, path)
    return ConfigError(f"{name}:{line}: {what}" if line else f"{name}: {what}")


def _path(spelt: str | None) -> list[str | int]:
    return [key or int(index) for key, index in _STEP.findall(spelt or "")]


def _spelt(path: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _line(text: str, path: list[str | int]) -> int | None:
    """The line of the key at `path`, or of the nearest thing around it; None where nothing of it is in the text."""
    best, depth = None, 0
    for number, found in _keys(text):
        common = 0
        while common < min(len(found), len(path)) and found[common] == path[common]:
            common += 1
        # The first line that shares most with the path: for what lies in a value, the line of that value's key.
        if common == len(found) and common > depth:
            best, depth = number, common
    return best


def _keys(text: str) -> Iterator[tuple[int, list[str | int]]]:
    """Line and path of every header and key that begins a line."""
    table: list[str | int] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (header := _HEADER.match(line)) is not None:
            title = header.group(2)
            table = [*title.split(".")]
            if header.group(1) == "[[":
                table.append(counts.get(title, 0))
                counts[title] = counts.get(title, 0) + 1
            yield number, list(table)
        elif _KEY.match(line) is not None:
            dotted = line.split("=", 1)[0]
            steps = [part.strip().strip("\"'") for part in dotted.split(".")]
            yield number, [*table, *steps]
