"""Whatever happens to a session and its router, in whatever order: what must hold of every decision."""

import itertools

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit import eligibility, moves, policy, progress, record
from bandit.configuration import Configuration
from bandit.decision import Vintage, confirm
from bandit.errors import NoEligibleArm, WrongOrder
from bandit.events import ArmPut, AvailabilitySet, Decided, Event, Rewarded, RouterPut
from bandit.session import Session, apply
from bandit.types import (
    Arm,
    BarKind,
    EscalationReason,
    Features,
    Mode,
    Objective,
    Offer,
    Outcome,
    ProgressAction,
    Requirements,
    RouterSettings,
    Rule,
    SelectReason,
    Signals,
)

ARMS = (
    Arm(id="a", endpoints=("east", "west"), context_window_tokens=100),
    Arm(id="b", capabilities=frozenset({"vision"})),
    Arm(id="c", capabilities=frozenset({"vision"}), context_window_tokens=1000),
    Arm(id="d"),
)
VINTAGES = [
    Vintage(policy=made, policy_version="1", epoch=0, epoch_hash="h", state=made.start(ARMS))
    for made in map(policy.parse, ("uniform", "ladder:a>c", "thompson"))
]

arms = st.sampled_from("abcd")
some_arms = st.frozensets(arms, max_size=3)
requirements = st.builds(
    Requirements,
    allow=st.just(frozenset()) | some_arms,
    deny=st.just(frozenset()) | some_arms,
    capabilities=st.sampled_from([frozenset(), frozenset({"vision"})]),
    context_tokens=st.sampled_from([0, 50, 500, 5000]),
    max_cost_usd=st.none() | st.floats(0, 10),
)
rules = st.lists(st.builds(Rule, project=st.sampled_from(["", "x", "y"]), allow=some_arms, deny=some_arms), max_size=2)
features = st.dictionaries(st.just("project"), st.sampled_from(["x", "y"]))


@st.composite
def settings_of(draw: st.DrawFn) -> RouterSettings:
    return RouterSettings(
        draws=8,
        mode=draw(st.sampled_from(Mode)),
        baseline_arm=draw(st.none() | arms),
        rules=tuple(draw(rules)),
        objective=Objective(session_cap_usd=draw(st.none() | st.floats(0, 20))),
        max_attempts=draw(st.integers(1, 4)),
    )


Select = tuple[Requirements, Features, str]
Action = RouterSettings | Select | EscalationReason | ArmPut | AvailabilitySet | Signals | Outcome
actions: st.SearchStrategy[Action] = st.one_of(
    st.tuples(requirements, features, st.just("") | arms),
    st.sampled_from(EscalationReason),
    st.builds(AvailabilitySet, arm=arms, endpoint=st.sampled_from(["", "east"]), until_us=st.integers(0, 30)),
    st.sampled_from(ARMS).map(lambda arm: ArmPut(arm=msgspec.structs.replace(arm, retired=True))),
    st.builds(Signals, tool_calls=st.integers(0, 30), tool_errors=st.integers(0, 30)),
    st.builds(Outcome, cost_usd=st.none() | st.floats(0, 5), success=st.none() | st.floats(0, 1)),
    settings_of(),
)


class World:
    """One router and one session, one tick of the clock an action."""

    def __init__(self, vintage: Vintage, configured: RouterSettings) -> None:
        self.vintage = vintage
        self.configuration = Configuration()
        for arm in ARMS:
            self.configuration = self.configuration.apply(ArmPut(arm=arm))
        self.configuration = self.configuration.apply(RouterPut(settings=configured))
        self.session: Session | None = None
        self.now_us = 0
        self.ids = map(str, itertools.count())

    def offers(self, demanded: Requirements, about: Features) -> tuple[Offer, ...]:
        assert self.configuration.settings is not None
        return eligibility.offers(
            self.configuration.arms,
            requirements=demanded,
            rules=eligibility.holding(self.configuration.settings.rules, about),
            unavailable=self.configuration.unavailable(self.now_us),
        )

    def do(self, action: Action) -> None:
        self.now_us += 1
        try:
            match action:
                case RouterSettings():
                    self.configuration = self.configuration.apply(RouterPut(settings=action))
                case ArmPut() | AvailabilitySet():
                    self.configuration = self.configuration.apply(action)
                case (demanded, about, pinned):
                    self.select(demanded, about, pinned)
                case EscalationReason() if self.session is not None:
                    self.escalate(self.session, action)
                case Signals() if self.session is not None:
                    self.report(self.session, action)
                case Outcome() if self.session is not None:
                    revision = self.session.revision + 1
                    self.take(Rewarded(session_id="s", outcome=action, revision=revision, final=action.success == 1.0))
        except (NoEligibleArm, WrongOrder):
            pass

    def select(self, demanded: Requirements, about: Features, pinned: str) -> None:
        settings, before = self.configuration.settings, self.session
        assert settings is not None
        known = {**before.features, **about} if before is not None else about
        offers = self.offers(demanded, known)
        taken = moves.select(
            settings,
            self.vintage,
            before,
            session_id="s",
            features=about,
            offers=offers,
            decision_id=next(self.ids),
            pinned_arm=pinned,
            requirements=demanded,
            endpoint_of=lambda arm: self.configuration.endpoint(arm, self.now_us),
        )
        if isinstance(taken, Decided):
            self.take(taken)
            return
        assert before is not None and taken == before.attempts[-1].decision
        bar = next(offer.bar for offer in offers if offer.arm == taken.arm)
        if bar is not None:
            # Only who asked for an arm keeps it against the rules.
            assert bar.kind is BarKind.POLICY and (pinned or taken.reason is SelectReason.PINNED)
        endpoint = self.configuration.endpoint(taken.arm, self.now_us)
        event = moves.stuck(before, requirements=demanded, endpoint=endpoint, repeatable=False)
        if event is not None:
            self.take(event)
        assert self.session is not None
        assert (self.session.requirements, self.session.attempts[-1].endpoint) == (demanded, endpoint)

    def escalate(self, session: Session, reason: EscalationReason) -> None:
        assert self.configuration.settings is not None
        events = moves.escalate(
            self.configuration.settings,
            self.vintage,
            session,
            decision_id=session.attempts[-1].decision.decision_id,
            reason=reason,
            offers=self.offers(session.requirements, session.features),
            next_decision_id=next(self.ids),
        )
        for event in events:
            if isinstance(event, Decided):
                assert event.decision.situation.requirements == session.requirements
            self.take(event)

    def report(self, session: Session, signals: Signals) -> None:
        assert self.configuration.settings is not None
        event = progress.report(
            self.configuration.settings,
            self.vintage,
            session,
            decision_id=session.attempts[-1].decision.decision_id,
            signals=signals,
            offers=self.offers(session.requirements, session.features),
        )
        assert (event.arm == "") == (event.action is ProgressAction.STOP)
        running = session.attempts[-1].decision.arm
        assert (event.arm == running) == (event.action is ProgressAction.CONTINUE)
        self.take(event)

    def take(self, event: Event) -> None:
        recorded = record.encode(event, salt=b"s" * record.SALT_BYTES)
        event = record.decode(*recorded).event
        if isinstance(event, Decided):
            self.check(event)
        self.session = apply(self.session, event)
        if isinstance(event, Decided):
            assert self.session is not None
            assert self.session.requirements == event.decision.situation.requirements

    def check(self, event: Decided) -> None:
        decision = event.decision
        tried = [attempt.decision.arm for attempt in self.session.attempts] if self.session is not None else []
        offer = next(offer for offer in decision.situation.offers if offer.arm == decision.arm)
        bar = next(score.bar for score in decision.scores if score.arm == decision.arm)
        if decision.reason is SelectReason.PINNED:
            assert offer.bar is None or offer.bar.kind in (BarKind.POLICY, BarKind.TRIED)
        else:
            assert bar is None and decision.arm not in tried
        if decision.reason in (SelectReason.PINNED, SelectReason.BASELINE, SelectReason.ONLY_ELIGIBLE):
            assert decision.propensity == 1.0
        assert abs(sum(score.propensity for score in decision.scores) - 1.0) < 1e-9
        assert decision.attempt == len(tried) + 1
        assert confirm(self.vintage, decision) == ""


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VINTAGES), settings_of(), st.lists(actions, max_size=12))
def test_whatever_happens_every_decision_obeys_the_rules(
    vintage: Vintage, configured: RouterSettings, happened: list[Action]
) -> None:
    world = World(vintage, configured)
    world.do((Requirements(), {}, ""))
    for action in happened:
        world.do(action)
