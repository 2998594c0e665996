"""`pointsman.toml`: what an operator may set, with a default for everything; what is wrong is named with its line."""

import math
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bandit import keys, policy
from bandit.errors import InvalidInput
from bandit.events import Configured
from bandit.objective import require_whole
from bandit.types import Arm, Failover, Figure, Mode, Objective, Price, RouterSettings, Rule
from server.auth.grants import Grant, Scope
from server.auth.tls import TlsFiles
from server.auth.token_file import FILE
from server.limits import Limits

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_Name = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class ConfigError(Exception):
    """The configuration cannot be used; the text is one line that says what and where."""


class Service(keys.Strict, frozen=True, kw_only=True):
    """Where the service listens, keeps its data and fits."""

    listen: str = "127.0.0.1:50051"
    http: str = "127.0.0.1:8080"
    hosts: tuple[_Name, ...] = ()
    """Names under which browsers reach the dashboard, beside addresses and `localhost`."""
    data_dir: str = "pointsman-data"
    archive_seconds: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 300.0
    """The archive takes in what was logged every so many seconds; 0: there is none."""
    fitter: Literal["beside", "inline"] = "beside"
    """In a process of its own, or in this one before the next Select, for reproducible tests."""
    log_format: Literal["text", "json"] = "text"
    """Of the server's own log on standard error: lines of words, or a JSON object a line."""


class Retention(keys.Strict, frozen=True, kw_only=True):
    """How long what is logged is kept. The log itself is kept for ever: what is learned is computed from it."""

    archive_days: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    """Days of the archive that are older are deleted; 0: none."""
    features_days: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    """Features of sessions that have been silent for so long are erased; 0: none."""


class Client(keys.Strict, frozen=True, kw_only=True):
    """What the holder of a certificate may do."""

    name: _Id
    """One of the certificate's alternative names, or its common name."""
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    routers: tuple[_Id, ...] | None = None
    """None: all."""
    sessions_per_second: keys.Positive | None = None

    def grant(self) -> Grant:
        """The same as a grant."""
        return Grant(
            scopes=frozenset(self.scopes),
            routers=frozenset(self.routers) if self.routers is not None else None,
            sessions_per_second=self.sessions_per_second,
        )


class Security(keys.Strict, frozen=True, kw_only=True):
    """How the ports are guarded."""

    certificate: str | None = None
    """File of the server's certificate, PEM; with its key: TLS on both ports."""
    key: str | None = None
    client_ca: str | None = None
    """File of the authorities of callers' certificates: gRPC then asks for one."""
    tokens: bool = False
    """Whether callers need a bearer token, or a certificate that is named here."""
    tokens_file: str | None = None
    """None: `tokens.json` in the data directory."""
    clients: tuple[Client, ...] = ()

    @property
    def tls(self) -> TlsFiles | None:
        """The files that TLS needs; None: there is none."""
        if self.certificate is None or self.key is None:
            return None
        client_ca = Path(self.client_ca) if self.client_ca is not None else None
        return TlsFiles(certificate=Path(self.certificate), key=Path(self.key), client_ca=client_ca)

    def tokens_path(self, data_dir: Path) -> Path:
        """Where the tokens are kept."""
        return Path(self.tokens_file) if self.tokens_file is not None else data_dir / FILE

    def require_whole(self) -> None:
        """Raises InvalidInput naming the key that is missing or contradicts another."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("security.certificate" if self.key else "security.key", "required: TLS needs both")
        if self.client_ca is not None and self.certificate is None:
            raise InvalidInput("security.client_ca", "without a certificate of the server's own there is no TLS")
        if self.clients and self.client_ca is None:
            raise InvalidInput("security.clients", "are known by certificates: give client_ca")
        if self.client_ca is not None and not self.clients and not self.tokens:
            raise InvalidInput("security.client_ca", "nobody could call: name [[security.clients]], or set tokens")
        _require_once("security.clients[{}].name", [client.name for client in self.clients])


class Telemetry(keys.Strict, frozen=True, kw_only=True):
    """What the service tells others of its work, and hears from them, by way of OpenTelemetry."""

    evaluations: dict[_Id, tuple[float, float]] = msgspec.field(default_factory=lambda: {"success": (0.0, 1.0)})
    """By the names of evaluations that tell success: the score that is none, and the one that is all of it."""

    def require_sound(self) -> None:
        """Raises InvalidInput."""
        for name, (least, most) in self.evaluations.items():
            if not (math.isfinite(least) and math.isfinite(most)) or least == most:
                raise InvalidInput(f"telemetry.evaluations.{name}", "must be two different numbers")


class _Figure(keys.Strict, frozen=True, kw_only=True):
    category: _Id | None = None
    success_rate: keys.Share
    cost_usd: keys.NotNegative | None = None


class _Arm(keys.Strict, frozen=True, kw_only=True):
    id: _Id
    provider: _Name = ""
    input_usd_per_million: keys.NotNegative | None = None
    output_usd_per_million: keys.NotNegative | None = None
    cached_usd_per_million: keys.NotNegative | None = None
    endpoints: tuple[_Id, ...] = ()
    capabilities: tuple[_Id, ...] = ()
    context_window_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None
    figures: tuple[_Figure, ...] = ()
    predecessor: _Id | None = None

    def arm(self) -> Arm:
        priced = (self.input_usd_per_million, self.output_usd_per_million, self.cached_usd_per_million)
        return Arm(
            id=self.id,
            provider=self.provider,
            price=Price(input_usd=priced[0] or 0.0, output_usd=priced[1] or 0.0, cached_usd=priced[2])
            if any(price is not None for price in priced)
            else None,
            endpoints=self.endpoints,
            capabilities=frozenset(self.capabilities),
            context_window_tokens=self.context_window_tokens,
            figures=tuple(
                Figure(category=figure.category, success_rate=figure.success_rate, cost_usd=figure.cost_usd)
                for figure in self.figures
            ),
            predecessor=self.predecessor or "",
        )


class _Rule(keys.Strict, frozen=True, kw_only=True):
    organisation: _Name = ""
    project: _Name = ""
    user: _Name = ""
    allow: tuple[_Id, ...] = ()
    deny: tuple[_Id, ...] = ()

    def rule(self) -> Rule:
        return Rule(
            organisation=self.organisation,
            project=self.project,
            user=self.user,
            allow=frozenset(self.allow),
            deny=frozenset(self.deny),
        )


class _Failover(keys.Strict, frozen=True, kw_only=True):
    errors: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    error_share: keys.Share | None = None
    window_seconds: keys.Positive | None = None
    cool_down_seconds: keys.Positive | None = None


class _Router(keys.Strict, frozen=True, kw_only=True):
    """A router; what is not given is as in `RouterSettings`."""

    id: _Id | None = None
    policy: str | None = None
    mode: Mode | None = None
    baseline_arm: _Id | None = None
    seed: keys.Seed | None = None
    max_attempts: keys.Attempts | None = None
    store_text: bool | None = None
    alpha: keys.Positive | None = None
    exploration_floor: keys.Share | None = None
    draws: keys.Draws | None = None
    reward_wait_seconds: keys.Positive | None = None
    missing_success: keys.Share | None = None
    objective: keys.ObjectiveKeys = keys.ObjectiveKeys()
    failover: _Failover = _Failover()
    rules: tuple[_Rule, ...] = ()
    arms: tuple[_Arm, ...] | None = None
    """Its own; None: those that stand beside the routers."""

    def settings(self) -> RouterSettings:
        return keys.changed(
            RouterSettings(),
            **keys.given(self, leave_out=("objective", "failover", "rules", "arms")),
            objective=self.objective.over(Objective()),
            failover=msgspec.structs.replace(Failover(), **keys.given(self.failover)),
            rules=tuple(rule.rule() for rule in self.rules),
        )


class _File(keys.Strict, frozen=True, kw_only=True):
    service: Service = Service()
    limits: Limits = Limits()
    retention: Retention = Retention()
    security: Security = Security()
    telemetry: Telemetry = Telemetry()
    router: _Router | None = None
    routers: tuple[_Router, ...] = ()
    arms: tuple[_Arm, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """What a configuration was read from."""

    name: str
    text: str

    def place(self, field: str) -> str:
        """Where a key stands, or what is nearest around it: file and line."""
        line = _line(self.text, _path(field))
        return f"{self.name}:{line}" if line else self.name


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole, valid configuration."""

    source: Source

    service: Service
    limits: Limits
    retention: Retention
    security: Security
    telemetry: Telemetry
    routers: tuple[Configured, ...]
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
    source = Source(name, text)
    try:
        file = keys.loads(text, _File)
        routers = _routers(file)
        file.security.require_whole()
        file.telemetry.require_sound()
    except InvalidInput as error:
        place = source.place(error.field)
        raise ConfigError(f"{place}: {error}" if error.field else f"{place}: {error.why}") from error
    return Config(
        source=source,
        service=file.service,
        limits=file.limits,
        retention=file.retention,
        security=file.security,
        telemetry=file.telemetry,
        routers=routers,
        bundled=bundled,
    )


def _routers(file: _File) -> tuple[Configured, ...]:
    """The routers of a file. Raises InvalidInput naming the key that contradicts another."""
    if file.router is not None and file.routers:
        raise InvalidInput("routers[0]", "give either [router] or [[routers]]")
    given = {f"routers[{i}]": router for i, router in enumerate(file.routers)}
    _require_arms_sound("arms", file.arms)
    _require_once("routers[{}].id", [router.id or RouterSettings().id for router in file.routers])
    return tuple(
        _router(path, router, file.arms) for path, router in (given or {"router": file.router or _Router()}).items()
    )


def _router(path: str, router: _Router, shared: Sequence[_Arm]) -> Configured:
    if router.arms is not None:
        _require_arms_sound(f"{path}.arms", router.arms)
    settings = router.settings()
    arms = tuple(arm.arm() for arm in (router.arms if router.arms is not None else shared))
    known = {arm.id for arm in arms}
    try:
        policy.parse(settings.policy).start(arms)
    except InvalidInput as error:
        raise InvalidInput(f"{path}.policy", error.why) from error
    require_whole(settings.objective, f"{path}.objective")
    if settings.baseline_arm is not None and settings.baseline_arm not in known:
        raise InvalidInput(f"{path}.baseline_arm", f"no arm {settings.baseline_arm!r}")
    if settings.mode is Mode.APPRENTICE and settings.baseline_arm is None:
        raise InvalidInput(f"{path}.mode", "apprentice mode needs a baseline_arm")
    for i, rule in enumerate(router.rules):
        for key, names in (("allow", rule.allow), ("deny", rule.deny)):
            for unknown in (name for name in names if name not in known):
                raise InvalidInput(f"{path}.rules[{i}].{key}", f"no arm {unknown!r}")
    return Configured(settings=settings, arms=arms)


def _require_arms_sound(path: str, arms: Sequence[_Arm]) -> None:
    _require_once(path + "[{}].id", [arm.id for arm in arms])
    for i, arm in enumerate(arms):
        _require_once(f"{path}[{i}].endpoints", arm.endpoints)
        _require_once(f"{path}[{i}].figures", [figure.category for figure in arm.figures])
        if arm.predecessor is not None and arm.predecessor not in [earlier.id for earlier in arms[:i]]:
            raise InvalidInput(f"{path}[{i}].predecessor", f"no arm {arm.predecessor!r} before this one")


def _require_once(path: str, values: Sequence[str | None]) -> None:
    """Nothing twice; braces in the path stand for the position of the second."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise InvalidInput(path.format(i), f"{value or 'the one without a category'!r} is there twice")


# --- where in the text -------------------------------------------------------------------------------------------

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_-]+))\s*(\.|=)""")


def _path(spelt: str) -> list[str | int]:
    return [key or int(index) for key, index in _STEP.findall(f".{spelt}")]


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
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (header := _HEADER.match(line)) is not None:
            table = []
            for step in header.group(2).split("."):
                table.append(step.strip().strip("\"'"))
                if (within := counts.get(tuple(table))) is not None:
                    # In the last of that array's tables so far.
                    table.append(within)
            if header.group(1) == "[[":
                if isinstance(table[-1], int):
                    table.pop()
                counts[tuple(table)] = counts.get(tuple(table), -1) + 1
                table.append(counts[tuple(table)])
            yield number, list(table)
        elif _KEY.match(line) is not None:
            dotted = line.split("=", 1)[0]
            steps = [part.strip().strip("\"'") for part in dotted.split(".")]
            yield number, [*table, *steps]
