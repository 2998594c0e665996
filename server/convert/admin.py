"""The Admin service's messages to domain values and back, every input checked."""

from collections.abc import Collection
from typing import Any, TypeVar

from bandit.errors import InvalidInput
from bandit.evidence import DEFAULT_GATE, require_gate
from bandit.keys import MOST_ATTEMPTS, MOST_DRAWS, MOST_SEED
from bandit.objective import require_whole
from bandit.types import (
    Arm,
    Canary,
    Failover,
    Figure,
    Mode,
    Objective,
    PolicyStage,
    Preset,
    Price,
    RouterSettings,
    Rule,
)
from pointsman.v1 import admin_pb2 as pb
from server.commands import (
    ArmStands,
    CreatePolicy,
    CreateRouter,
    PolicyStands,
    PromotePolicy,
    PutArm,
    RetireArm,
    RollBackPolicy,
    RouterView,
    SetAvailability,
    SetMode,
    StartCanary,
    StartShadow,
    TrialStands,
    UpdateRouter,
)
from server.convert.checks import (
    MAX_COUNT,
    Checks,
    amount,
    count,
    finite,
    optional,
    positive,
    share,
    within,
)
from server.convert.responses import timestamp

_MODES = {mode: pb.Mode.Value(f"MODE_{mode.name}") for mode in Mode}
_MODE_OF = {number: mode for mode, number in _MODES.items()}
_PRESET_OF = {pb.Preset.Value(f"PRESET_{preset.name}"): preset for preset in Preset}
_STAGES = {stage: pb.PolicyStage.Value(f"POLICY_STAGE_{stage.name}") for stage in PolicyStage}
_MOST_SECONDS_DOWN = 1e9
"""About thirty years; a time so far ahead can still be told."""
_MOST_ERRORS = 1_000_000

_Item = TypeVar("_Item")


class Changes(Checks):
    """Turns messages into commands. Every method raises InvalidInput, naming the field as the caller spells it."""

    def create_router(self, request: pb.CreateRouterRequest) -> CreateRouter:
        """A CreateRouter."""
        settings = RouterSettings(
            id=self.router(request.router),
            mode=self._mode(request.mode) if request.mode else Mode.LIVE,
            policy=self.id("policy", request.policy) or RouterSettings().policy,
            **self._settings(request.settings),
        )
        return CreateRouter(settings=settings)

    def update_router(self, request: pb.UpdateRouterRequest) -> UpdateRouter:
        """An UpdateRouter."""
        return UpdateRouter(router=self.router(request.router), fields=self._settings(request.settings))

    def set_mode(self, request: pb.SetModeRequest) -> SetMode:
        """A SetMode."""
        return SetMode(router=self.router(request.router), mode=self._mode(request.mode))

    def put_arm(self, request: pb.PutArmRequest) -> PutArm:
        """A PutArm."""
        given = request.arm
        count("arm.figures", given.figures, self._limits.list_items)
        figures = tuple(self._figure(f"arm.figures[{i}]", figure) for i, figure in enumerate(given.figures))
        _once("arm.figures", [figure.category for figure in figures])
        price = None
        if given.HasField("prices"):
            price = Price(
                input_usd=amount("arm.prices.input_usd_per_million", given.prices.input_usd_per_million),
                output_usd=amount("arm.prices.output_usd_per_million", given.prices.output_usd_per_million),
                cached_usd=optional(given.prices, "cached_usd_per_million", amount, "arm.prices."),
            )
        return PutArm(
            router=self.router(request.router),
            arm=Arm(
                id=self.required_id("arm.id", given.id),
                provider=self.id("arm.provider", given.provider),
                price=price,
                endpoints=self._distinct("arm.endpoints", given.endpoints),
                capabilities=frozenset(self._distinct("arm.capabilities", given.capabilities)),
                context_window_tokens=optional(given, "context_window_tokens", within(1, MAX_COUNT), "arm."),
                figures=figures,
                predecessor=self.id("arm.predecessor", given.predecessor),
            ),
        )

    def retire_arm(self, request: pb.RetireArmRequest) -> RetireArm:
        """A RetireArm."""
        return RetireArm(router=self.router(request.router), arm=self.required_id("arm", request.arm))

    def set_availability(self, request: pb.SetAvailabilityRequest) -> SetAvailability:
        """A SetAvailability."""
        if not 0 <= finite("down_seconds", request.down_seconds) <= _MOST_SECONDS_DOWN:
            raise InvalidInput("down_seconds", f"is {request.down_seconds}, must lie in 0 to {_MOST_SECONDS_DOWN:g}")
        return SetAvailability(
            router=self.router(request.router),
            arm=self.required_id("arm", request.arm),
            endpoint=self.id("endpoint", request.endpoint),
            down_seconds=request.down_seconds,
            why=self.id("why", request.why),
        )

    def create_policy(self, request: pb.CreatePolicyRequest) -> CreatePolicy:
        """A CreatePolicy."""
        if len(request.definition) > self._limits.text_chars:
            raise InvalidInput("definition", f"longer than {self._limits.text_chars} characters")
        return CreatePolicy(
            router=self.router(request.router),
            policy=self.id("policy", request.policy),
            definition=request.definition,
        )

    def start_shadow(self, request: pb.StartShadowRequest) -> StartShadow:
        """A StartShadow."""
        return StartShadow(
            router=self.router(request.router),
            policy_version=self.required_id("policy_version", request.policy_version),
        )

    def start_canary(self, request: pb.StartCanaryRequest) -> StartCanary:
        """A StartCanary."""
        version = self.required_id("policy_version", request.policy_version)
        if not 0.0 < finite("share", request.share) < 1.0:
            raise InvalidInput("share", f"is {request.share:g}, must lie between 0 and 1")
        require_gate(self.id("gate", request.gate))
        return StartCanary(
            router=self.router(request.router),
            policy_version=version,
            canary=Canary(share=request.share, gate=request.gate, hold=request.hold),
        )

    def promote_policy(self, request: pb.PromotePolicyRequest) -> PromotePolicy:
        """A PromotePolicy."""
        return PromotePolicy(
            router=self.router(request.router),
            policy_version=self.required_id("policy_version", request.policy_version),
        )

    def roll_back_policy(self, request: pb.RollBackPolicyRequest) -> RollBackPolicy:
        """A RollBackPolicy."""
        return RollBackPolicy(
            router=self.router(request.router),
            policy_version=self.id("policy_version", request.policy_version),
            why=self.id("why", request.why),
        )

    def _mode(self, mode: "pb.Mode.ValueType") -> Mode:
        if mode not in _MODE_OF:
            raise InvalidInput("mode", f"there is no mode {mode}" if mode else "required")
        return _MODE_OF[mode]

    def _figure(self, field: str, figure: pb.PriorFigure) -> Figure:
        return Figure(
            category=self.id(f"{field}.category", figure.category) or None,
            success_rate=share(f"{field}.success_rate", figure.success_rate),
            cost_usd=optional(figure, "cost_usd_mean", amount, f"{field}."),
        )

    def _settings(self, given: pb.RouterSettings) -> dict[str, Any]:
        """The fields of `RouterSettings` that a message sets; parts of it are set whole."""
        fields: dict[str, Any] = {}
        if given.HasField("objective"):
            fields["objective"] = _objective("settings.objective", given.objective)
        if given.HasField("learning"):
            fields |= _learning("settings.learning.", given.learning)
        if given.HasField("rules"):
            count("settings.rules.rules", given.rules.rules, self._limits.list_items)
            fields["rules"] = tuple(
                self._rule(f"settings.rules.rules[{i}]", rule) for i, rule in enumerate(given.rules.rules)
            )
        if given.HasField("failover"):
            fields["failover"] = _failover("settings.failover.", given.failover)
        if given.HasField("baseline_arm"):
            fields["baseline_arm"] = self.id("settings.baseline_arm", given.baseline_arm) or None
        if given.HasField("store_text"):
            fields["store_text"] = given.store_text
        if given.HasField("max_attempts"):
            fields["max_attempts"] = within(1, MOST_ATTEMPTS)("settings.max_attempts", given.max_attempts)
        if given.HasField("seed"):
            fields["seed"] = within(0, MOST_SEED)("settings.seed", given.seed)
        return fields

    def _rule(self, field: str, rule: pb.Rule) -> Rule:
        return Rule(
            organisation=self.id(f"{field}.organisation", rule.organisation),
            project=self.id(f"{field}.project", rule.project),
            user=self.id(f"{field}.user", rule.user),
            allow=frozenset(self._distinct(f"{field}.allow", rule.allow)),
            deny=frozenset(self._distinct(f"{field}.deny", rule.deny)),
        )

    def _distinct(self, field: str, names: Collection[str]) -> tuple[str, ...]:
        """Names in their order, none of them twice."""
        self.names(field, names)
        _once(field, names)
        return tuple(names)


def _once(field: str, items: Collection[_Item]) -> None:
    seen: set[_Item] = set()
    for item in items:
        if item in seen:
            raise InvalidInput(field, f"{item or 'the one without a category'!r} is there twice")
        seen.add(item)


def _objective(field: str, given: pb.Objective) -> Objective:
    path = f"{field}."
    default = Objective()
    if given.preset and given.preset not in _PRESET_OF:
        raise InvalidInput(f"{path}preset", f"there is no preset {given.preset}")
    preset = _PRESET_OF.get(given.preset)
    value_usd = optional(given, "value_usd", positive, path)
    if value_usd is None:
        value_usd = preset.value_usd if preset is not None else default.value_usd
    latency = optional(given, "latency_usd_per_second", amount, path)
    objective = Objective(
        value_usd=value_usd,
        latency_usd_per_second=latency if latency is not None else default.latency_usd_per_second,
        quality_floor=optional(given, "quality_floor", share, path),
        quality_floor_relative=given.quality_floor_relative,
        budget_usd=optional(given, "budget_usd", positive, path),
        budget_period_seconds=optional(given, "budget_period_seconds", positive, path),
        session_cap_usd=optional(given, "session_cap_usd", amount, path),
    )
    require_whole(objective, field)
    return objective


def _learning(path: str, given: pb.Learning) -> dict[str, Any]:
    default = RouterSettings()
    fields = {
        "alpha": optional(given, "alpha", positive, path),
        "exploration_floor": optional(given, "exploration_floor", share, path),
        "draws": optional(given, "draws", within(1, MOST_DRAWS), path),
        "reward_wait_seconds": optional(given, "reward_wait_seconds", positive, path),
        "missing_success": optional(given, "missing_success", share, path),
    }
    return {name: getattr(default, name) if value is None else value for name, value in fields.items()}


def _failover(path: str, given: pb.Failover) -> Failover:
    fields: dict[str, Any] = {
        "errors": optional(given, "errors", within(1, _MOST_ERRORS), path),
        "error_share": optional(given, "error_share", share, path),
        "window_seconds": optional(given, "window_seconds", positive, path),
        "cool_down_seconds": optional(given, "cool_down_seconds", positive, path),
    }
    return Failover(**{name: value for name, value in fields.items() if value is not None})


# --- domain values to messages ------------------------------------------------------------------------------------


def router(settings: RouterSettings, created_us: int) -> pb.Router:
    """A router right after a change: what was set, without what it has learned since."""
    return pb.Router(
        id=settings.id,
        settings=_settings_message(settings),
        mode=_MODES[settings.mode],
        policy=settings.policy,
        policy_version=settings.policy_version,
        created_at=timestamp(created_us),
    )


def router_with_state(view: RouterView) -> pb.Router:
    """A router and how far it has learned."""
    message = router(view.settings, view.created_us)
    message.epoch = view.epoch
    message.epoch_hash = view.epoch_hash
    message.last_sequence = view.last_seq
    message.learned_sequence = view.learned_seq
    message.budget_price = view.budget_price
    if view.budget_spent_usd is not None:
        message.budget_spent_usd = view.budget_spent_usd
    message.candidates.extend(policy(candidate, view.created_us) for candidate in view.candidates)
    return message


def arm(stands: ArmStands) -> pb.Arm:
    """An arm, with what of it is down."""
    value, price = stands.arm, stands.arm.price
    whole = stands.down.get("")
    return pb.Arm(
        id=value.id,
        provider=value.provider,
        prices=pb.Prices(
            input_usd_per_million=price.input_usd,
            output_usd_per_million=price.output_usd,
            cached_usd_per_million=price.cached_usd,
        )
        if price is not None
        else None,
        capabilities=sorted(value.capabilities),
        figures=[
            pb.PriorFigure(
                category=figure.category or "", success_rate=figure.success_rate, cost_usd_mean=figure.cost_usd
            )
            for figure in value.figures
        ],
        predecessor=value.predecessor,
        retired=value.retired,
        down_until=timestamp(whole.until_us) if whole is not None else None,
        down_why=whole.why if whole is not None else "",
        endpoints=value.endpoints,
        context_window_tokens=value.context_window_tokens,
        endpoints_down=[
            pb.EndpointDown(endpoint=endpoint, until=timestamp(down.until_us), why=down.why)
            for endpoint, down in stands.down.items()
            if endpoint
        ],
    )


def policy(stands: PolicyStands, router_created_us: int) -> pb.Policy:
    """A policy; a router's first one was created with it."""
    record, trial = stands.policy, stands.trial
    canary = record.canary
    return pb.Policy(
        policy_version=record.version,
        policy=record.policy,
        definition=record.definition,
        stage=_STAGES[record.stage],
        canary_share=canary.share if canary is not None and record.stage is PolicyStage.CANARY else None,
        gate=(canary.gate or DEFAULT_GATE) if canary is not None else "",
        hold=canary is not None and canary.hold,
        verdict=record.why or (trial.verdict.why if trial is not None else ""),
        created_at=timestamp(record.created_us or router_created_us),
        evidence=_evidence(trial) if trial is not None else None,
    )


def _evidence(trial: TrialStands) -> pb.CanaryEvidence:
    evidence = trial.evidence
    return pb.CanaryEvidence(
        canary_sessions=evidence.canary_sessions,
        live_sessions=evidence.live_sessions,
        canary_missing=evidence.canary_missing,
        live_missing=evidence.live_missing,
        waiting_sessions=trial.waiting,
        effective_sample_size=evidence.effective,
        differences=[
            pb.CanaryDifference(
                condition=condition.text,
                metric=condition.metric,
                estimate=interval.estimate,
                low=interval.low,
                high=interval.high,
            )
            for condition, interval in evidence.differences()
        ],
    )


def _settings_message(settings: RouterSettings) -> pb.RouterSettings:
    objective, failover = settings.objective, settings.failover
    return pb.RouterSettings(
        objective=pb.Objective(
            value_usd=objective.value_usd,
            latency_usd_per_second=objective.latency_usd_per_second,
            quality_floor=objective.quality_floor,
            quality_floor_relative=objective.quality_floor_relative,
            budget_usd=objective.budget_usd,
            budget_period_seconds=objective.budget_period_seconds,
            session_cap_usd=objective.session_cap_usd,
        ),
        learning=pb.Learning(
            alpha=settings.alpha,
            exploration_floor=settings.exploration_floor,
            draws=settings.draws,
            reward_wait_seconds=settings.reward_wait_seconds,
            missing_success=settings.missing_success,
        ),
        rules=pb.Rules(
            rules=[
                pb.Rule(
                    organisation=rule.organisation,
                    project=rule.project,
                    user=rule.user,
                    allow=sorted(rule.allow),
                    deny=sorted(rule.deny),
                )
                for rule in settings.rules
            ]
        ),
        baseline_arm=settings.baseline_arm,
        store_text=settings.store_text,
        max_attempts=settings.max_attempts,
        failover=pb.Failover(
            errors=failover.errors,
            error_share=failover.error_share,
            window_seconds=failover.window_seconds,
            cool_down_seconds=failover.cool_down_seconds,
        ),
        seed=settings.seed,
    )
