"""Shadows: they learn what the live policy learns, say what they would have done, and change nothing."""

import msgspec
import numpy as np
import pytest

from bandit import moves, record, shadows
from bandit.agreement import compare
from bandit.canary import Candidate
from bandit.decision import Vintage
from bandit.events import Decided, Erased, Event, PolicyPut, Rewarded, RouterPut
from bandit.learner import Learner
from bandit.policy import Beliefs, Distribution, parse
from bandit.promotion import create, promote, roll_back, start_canary, start_shadow, under
from bandit.types import Canary, Mode, Objective, Offer, Outcome, SelectReason
from tests.bandit.test_learner import SETTINGS, Fed, Story, fold, sessions_until

SHADOW = 'policy = "epsilon"\nexploration_floor = 0.3\n[objective]\nvalue_usd = 1.0\n'


def tell(story: Story, *events: Event) -> None:
    for event in events:
        story.write(event)
        if isinstance(event, RouterPut):
            story.settings = event.settings


def begin(story: Story, policy: str = "thompson-single", definition: str = "") -> str:
    """Adds a policy and puts it in shadow; its version."""
    created = create(story.learner.configuration, policy=policy, definition=definition, at_us=1)
    tell(story, created)
    tell(story, start_shadow(story.learner.configuration, created.policy.version))
    return created.policy.version


def live_hashes(log: list[Fed]) -> dict[int, str]:
    """The live state after each event, by seq."""
    learner, found = Learner(), {}
    for fed in log:
        learner.feed(*fed)
        if learner.vintage is not None:
            found[fed.seq] = learner.vintage.epoch_hash
    return found


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_in_shadow_the_live_policy_is_the_same(seed):
    """Sessions, shadows, canaries, freezing and erasing at random, with the shadows' events and without."""
    rng = np.random.default_rng(seed)
    story = Story(msgspec.structs.replace(SETTINGS, policy="epsilon"), seed=seed)
    for _ in range(40):
        story.tell(int(rng.integers(1, 4)))
        configuration = story.learner.configuration
        match rng.integers(5):
            case 0 if len(configuration.shadows) < 3:
                begin(story, ("uniform", "linucb", "threshold:0.6")[int(rng.integers(3))])
            case 1 if configuration.shadows and configuration.canary is None:
                version = configuration.shadows[0].version
                tell(story, start_canary(configuration, version, Canary(share=0.5, gate="")))
            case 2 if configuration.shadows or configuration.canary:
                version = (configuration.canary or configuration.shadows[0]).version
                tell(story, *roll_back(configuration, version))
            case 3:
                mode = Mode.FROZEN if story.settings.mode is Mode.LIVE else Mode.LIVE
                tell(story, RouterPut(settings=msgspec.structs.replace(story.settings, mode=mode)))
            case 4:
                session_id = f"s{int(rng.integers(3))}"
                story.write(Erased(session_id=session_id), session_id)
    with_shadows = live_hashes(story.log)
    without = live_hashes([fed for fed in story.log if not isinstance(fed.event, PolicyPut)])
    assert any(isinstance(fed.event, PolicyPut) for fed in story.log)
    assert without.items() <= with_shadows.items()


def test_a_shadow_starts_level_with_the_live_policy_and_stays_so():
    """One with the same specification decides as the live one does, from one fold of all that was or from many."""
    story = Story(msgspec.structs.replace(SETTINGS, policy="epsilon"))
    story.tell(40)
    version = begin(story, "epsilon")
    agree(story, version)
    story.tell(40)
    assert story.learner.beside[version].epoch == story.learner.vintage.epoch
    agree(story, version)


def agree(story: Story, version: str) -> None:
    situation = next(fed.event for fed in reversed(story.log) if isinstance(fed.event, Decided)).decision.situation
    both = story.learner.vintage, story.learner.beside[version]
    mine, its = (vintage.policy.distribution(vintage.state, situation).propensities for vintage in both)
    np.testing.assert_allclose(mine, its, atol=1e-9)


def test_a_learner_goes_on_from_a_snapshot_with_its_shadows():
    story = Story(msgspec.structs.replace(SETTINGS, policy="epsilon"))
    story.tell(30)
    version = begin(story, "linucb")
    story.tell(40)
    half, blob = Learner(), b""
    for fed in story.log[: len(story.log) * 2 // 3]:
        if half.feed(*fed):
            blob, seq = half.snapshot(), half.epoch_seq
    again = Learner.resume(blob, sessions_until(story.log, seq))
    fold([fed for fed in story.log if fed.seq > seq], again)
    for version, one in story.learner.vintages().items():
        other = again.vintages()[version]
        assert (one.epoch, one.epoch_hash) == (other.epoch, other.epoch_hash)


def test_one_that_was_tried_goes_on_with_what_it_has_learned_when_it_is_promoted():
    story = Story(msgspec.structs.replace(SETTINGS, policy="epsilon"))
    story.tell(30)
    version = begin(story, "linucb")
    story.tell(30)
    learned = story.learner.beside[version].epoch_hash
    tell(story, *promote(story.learner.configuration, version))
    live = story.learner.vintage
    assert (live.policy_version, live.epoch_hash, dict(story.learner.beside)) == (version, learned, {})
    story.tell(20)
    assert story.learner.vintage.epoch_hash != learned


def test_while_frozen_a_shadow_knows_what_the_live_one_knows_and_learns_the_rest_with_it():
    story = Story(msgspec.structs.replace(SETTINGS, policy="epsilon"))
    story.tell(30)
    tell(story, RouterPut(settings=msgspec.structs.replace(story.settings, mode=Mode.FROZEN)))
    story.tell(20)
    version = begin(story, "epsilon")
    agree(story, version)
    at = story.learner.beside[version].epoch_hash
    story.tell(10)
    assert story.learner.beside[version].epoch_hash == at
    tell(story, RouterPut(settings=msgspec.structs.replace(story.settings, mode=Mode.LIVE)))
    story.tell(5)
    assert story.learner.beside[version].epoch_hash != at
    agree(story, version)


def test_one_that_cannot_learn_is_left_behind_and_holds_nobody_up(monkeypatch):
    story = Story(msgspec.structs.replace(SETTINGS, policy="epsilon"))
    story.tell(10)
    version, other = begin(story, "linucb"), begin(story, "uniform")

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(story.learner.beside[version].policy, "fold", fail)
    before = story.learner.vintage.epoch
    story.tell(10)
    assert story.learner.vintage.epoch > before
    assert list(story.learner.beside) == [other]


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story() -> Story:
    told = Story()
    told.tell(60)
    return told


def decisions(story: Story) -> list[Decided]:
    return [fed.event for fed in story.log if isinstance(fed.event, Decided)]


def candidate(story: Story, spec: str, definition: str = "") -> Candidate:
    record = create(story.learner.configuration, policy=spec, definition=definition, at_us=1).policy
    policy = parse(record.policy)
    state = policy.start(story.learner.configuration.arms)
    vintage = Vintage(policy=policy, policy_version=record.version, epoch=9, epoch_hash="h", state=state)
    return Candidate(under(story.settings, record), vintage)


class Broken:
    """A policy that cannot answer about some sessions."""

    spec, climbs = "broken", True

    def distribution(self, state, situation):
        return self.distributions(state, [situation])[0]

    def distributions(self, _state, situations):
        for situation in situations:
            if situation.session_id.endswith("3"):
                raise ZeroDivisionError("no way")
        return [self._answer(situation) for situation in situations]

    def _answer(self, situation):
        n = len(situation.offers)
        beliefs = Beliefs(
            success_mean=np.full(n, np.nan), success_low=np.zeros(n), success_high=np.ones(n), cost_usd=np.ones(n)
        )
        shares = np.full(n, np.nan if situation.session_id.endswith("4") else 1 / n)
        return Distribution(propensities=shares, beliefs=beliefs)


def unlearned(policy, version: str) -> Vintage:
    return Vintage(policy=policy, policy_version=version, epoch=9, epoch_hash="h", state=None)


def test_shadows_change_nothing_of_a_decision_and_their_errors_are_told(story):
    broken = Candidate(story.settings, unlearned(Broken(), "5"))
    taken = [(event,) for event in decisions(story)]
    told = shadows.told(taken, [candidate(story, "uniform"), broken])
    assert len(told) == len(taken)
    for (before,), (after,) in zip(taken, told, strict=True):
        assert (after.decision, after.left, after.endpoint) == (before.decision, before.left, before.endpoint)
        uniform, failed = after.shadows
        assert uniform.error == "" and sum(uniform.propensities) == pytest.approx(1.0)
        wrong = {"3": "ZeroDivisionError: no way", "4": "ValueError: not a distribution"}
        error = wrong.get(before.decision.session_id[-1], "")
        assert failed.error.startswith(error) and bool(failed.error) == bool(error)
        assert bool(failed.propensities) == (not error)
        recorded = record.encode(after, salt=bytes(16))
        assert record.decode(*recorded).event == after
        assert failed.success_mean is None


def test_shadows_say_the_same_again_and_on_their_own_terms(story):
    own = candidate(story, "", SHADOW)
    taken = shadows.told([(event,) for event in decisions(story)], [own, candidate(story, "thompson")])
    vintages = {"2": own.vintage}
    for (event,) in taken:
        mine = event.shadows[0]
        assert mine.terms.objective == Objective(value_usd=1.0) and mine.terms.exploration_floor == 0.3
        open_ones = [offer for offer in event.decision.situation.offers if offer.bar is None]
        if mine.propensities:
            assert min(p for p in mine.propensities if p > 0) >= 0.3 / len(open_ones) - 1e-12
        alone = msgspec.structs.replace(event, shadows=event.shadows[:1])
        assert shadows.confirm(vintages, alone) == ""
        forged = msgspec.structs.replace(mine, success_mean=0.123)
        assert "something else" in shadows.confirm(vintages, msgspec.structs.replace(alone, shadows=(forged,)))
        lost = msgspec.structs.replace(mine, epoch_hash="?")
        assert "recomputed" in shadows.confirm(vintages, msgspec.structs.replace(alone, shadows=(lost,)))


def test_in_apprentice_mode_a_shadow_says_what_it_would_do_were_it_to_decide(story):
    event = decisions(story)[0]
    situation = msgspec.structs.replace(event.decision.situation, mode=Mode.APPRENTICE, baseline_arm="a")
    decision = msgspec.structs.replace(event.decision, situation=situation)
    uniform = candidate(story, "uniform")
    (answer,) = shadows.beside(uniform.vintage, uniform.settings, [decision])
    assert answer.propensities == pytest.approx((1 / 3,) * 3)
    pinned = msgspec.structs.replace(decision, reason=SelectReason.PINNED)
    assert shadows.beside(uniform.vintage, uniform.settings, [pinned]) == [None]


# --- agreement ------------------------------------------------------------------------------------------------------


def test_a_shadow_is_compared_off_policy():
    """Live draws three arms evenly, of success .2, .5 and .8; shadows that always take one of them are told apart.

    Each estimate of a difference lies within its 95 % interval widened to twice its width, as it does but once in
    10,000; and agreement is a third, by definition.
    """
    story = Story(msgspec.structs.replace(SETTINGS, policy="uniform"))
    others = [Candidate(story.settings, unlearned(parse(f"always:{arm}"), arm)) for arm in "abc"]
    rng, events = np.random.default_rng(5), []
    chances = {"a": 0.2, "b": 0.5, "c": 0.8}
    for i in range(600):
        event = moves.select(
            story.settings,
            story.learner.vintage,
            None,
            session_id=f"s{i}",
            features={},
            offers=tuple(Offer(arm=arm) for arm in "abc"),
            decision_id=f"d{i}",
        )
        ((decided,),) = shadows.told([(event,)], others)
        good = float(rng.random() < chances[decided.decision.arm])
        told = Outcome(success=good, cost_usd=1.0)
        events += [(f"s{i}", decided), (f"s{i}", Rewarded(session_id=f"s{i}", outcome=told, revision=1, final=True))]
    for found in compare(events):
        assert (found.decisions, found.errors, found.sessions) == (600, 0, 600)
        assert found.agreement == pytest.approx(1 / 3)
        assert 150 < found.effective < 250
        true, interval = chances[found.policy_version] - 0.5, found.success
        assert abs(interval.estimate - true) < 2 * (interval.high - interval.estimate)
        assert found.cost_usd.estimate == pytest.approx(0.0)
