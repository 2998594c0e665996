"""The fold: the same prefix gives the same epochs, whoever folds it, from whatever snapshot, in however many goes."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from scipy.special import expit

from bandit import moves
from bandit.decision import confirm
from bandit.events import ArmPut, Decided, Erased, Escalated, Event, Rewarded, RouterPut, Stuck
from bandit.learner import InMemory, Learner, state_hash
from bandit.session import Session, apply
from bandit.types import Arm, Decision, EscalationReason, Offer, Outcome, Price, RouterSettings

SETTINGS = RouterSettings(id="r", seed=3, draws=32)
PRICES = {"a": 0.2, "b": 1.0, "c": 4.0}
ARMS = tuple(Arm(id=name, price=Price(input_usd=usd, output_usd=usd)) for name, usd in PRICES.items())
STRENGTH = {"a": -0.5, "b": 0.7, "c": 2.0, "d": 3.0}


class Fed(NamedTuple):
    seq: int
    event: Event
    session_id: str = ""


class Story:
    """A log being written: sessions climb while attempts fail; every reward is told some sessions later."""

    def __init__(self, settings: RouterSettings = SETTINGS, seed: int = 1, delay: int = 5) -> None:
        self.learner = Learner()
        self.log: list[Fed] = []
        self.arms: dict[str, Arm] = {}
        self.settings = settings
        self._rng = np.random.default_rng(seed)
        self._delay = delay
        self._rewards: list[tuple[str, Rewarded]] = []
        self._sessions: dict[str, Session] = {}
        self.vintages: list[tuple[int, str]] = []
        """(seq, hash) of every epoch as it was published."""
        for arm in ARMS:
            self.put(arm)
        self.write(RouterPut(settings=settings))

    def put(self, arm: Arm) -> None:
        self.arms[arm.id] = arm
        self.write(ArmPut(arm=arm))

    def write(self, event: Event, session_id: str = "") -> None:
        seq = 2 * len(self.log) + 1
        self.log.append(Fed(seq, event, session_id))
        session = apply(self._sessions.get(session_id), event)
        if session_id and session is not None:
            self._sessions[session_id] = session
        if self.learner.feed(seq, event, session_id):
            assert self.learner.vintage is not None
            self.vintages.append((seq, self.learner.vintage.epoch_hash))

    def tell(self, n: int) -> None:
        """`n` more sessions, and the rewards that have become due."""
        for _ in range(n):
            self._session(f"s{len(self._sessions)}")
            while len(self._rewards) > self._delay:
                session_id, reward = self._rewards.pop(0)
                self.write(reward, session_id)

    def _session(self, session_id: str) -> None:
        assert self.learner.vintage is not None
        offers = tuple(Offer(arm=arm.id, price=arm.price) for arm in self.arms.values())
        difficulty = self._rng.standard_normal()
        taken = moves.select(
            self.settings,
            self.learner.vintage,
            None,
            session_id=session_id,
            features={"category": ("bug", "feature")[int(self._rng.integers(2))], "size": self._rng.lognormal(3, 1)},
            offers=offers,
            decision_id=f"{session_id}-1",
        )
        assert isinstance(taken, Decided)
        self.write(taken, session_id)
        decision: Decision | None = taken.decision
        while decision is not None:
            good = bool(self._rng.random() < expit(STRENGTH[decision.arm] + 2 * difficulty))
            spent = Outcome(cost_usd=float(np.exp(self._rng.normal(-1.0, 0.5))))
            if good or not self.learner.vintage.policy.climbs:
                outcome = msgspec.structs.replace(spent, success=float(good))
                reward = Rewarded(
                    session_id=session_id, decision_id=decision.decision_id, outcome=outcome, revision=2, final=True
                )
                self._rewards.append((session_id, reward))
                return
            events = moves.escalate(
                self.settings,
                self.learner.vintage,
                self._sessions[session_id],
                decision_id=decision.decision_id,
                reason=EscalationReason.VERIFIED_FAILURE,
                offers=offers,
                next_decision_id=f"{session_id}-{decision.attempt + 1}",
                outcome=spent,
            )
            for event in events:
                self.write(event, session_id)
            decision = events[1].decision if len(events) == 2 else None


@pytest.fixture(scope="module")
def story() -> Story:
    told = Story()
    told.tell(60)
    told.put(Arm(id="d", price=Price(input_usd=2.0, output_usd=2.0)))
    told.tell(60)
    return told


def fold(log: list[Fed], learner: Learner | None = None) -> tuple[Learner, list[tuple[int, str]]]:
    """A learner fed with a log, and (seq, hash) of each epoch it published."""
    learner, epochs = learner or Learner(), []
    for fed in log:
        if learner.feed(*fed):
            assert learner.vintage is not None
            epochs.append((fed.seq, learner.vintage.epoch_hash))
    return learner, epochs


def newest(learner: Learner) -> tuple[int, int, str, str]:
    assert learner.vintage is not None
    return learner.vintage.epoch, learner.epoch_seq, learner.vintage.epoch_hash, learner.vintage.policy_version


def sessions_until(log: list[Fed], seq: int) -> InMemory:
    """A store of sessions as it stands after the events up to `seq`."""
    store = InMemory()
    for fed in log:
        if fed.seq <= seq and fed.session_id:
            session = apply(store.get(fed.session_id), fed.event)
            if session is not None:
                store.put(fed.session_id, session)
    return store


def outcomes(log: list[Fed]) -> Iterator[int]:
    """The seqs of events that count for a block."""
    for fed in log:
        match fed.event:
            case Escalated() | Rewarded():
                yield fed.seq
            case Decided(left=left) if left is not None:
                yield fed.seq


def test_a_log_folds_to_the_same_epochs_whoever_folds_it(story: Story) -> None:
    learner, epochs = fold(story.log)
    assert epochs == story.vintages
    assert newest(learner) == newest(story.learner)
    assert len({h for _, h in epochs}) == len(epochs)


def test_a_block_ends_with_its_sixteenth_of_what_came_before(story: Story) -> None:
    """Epochs after the first stand at the outcomes that the rule names, and at every arm."""
    ends, seen, pending = [], 0, 0
    counted = set(outcomes(story.log))
    for fed in story.log[len(ARMS) :]:
        if isinstance(fed.event, RouterPut):
            ends.append(fed.seq)
        elif isinstance(fed.event, ArmPut):
            ends.append(fed.seq)
            seen, pending = seen + pending, 0
        elif fed.seq in counted:
            pending += 1
            if pending >= max(1, min(64, seen // 16)):
                ends.append(fed.seq)
                seen, pending = seen + pending, 0
    assert [seq for seq, _ in story.vintages] == ends


def test_blocks_do_not_grow_beyond_sixty_four() -> None:
    learner = Learner()
    learner.feed(1, ArmPut(arm=ARMS[0]))
    learner.feed(2, RouterPut(settings=msgspec.structs.replace(SETTINGS, policy="uniform")))
    situation_of = Story(msgspec.structs.replace(SETTINGS, policy="uniform"))
    situation_of.tell(1)
    decided = next(fed.event for fed in situation_of.log if isinstance(fed.event, Decided))
    learner.feed(3, decided, "s0")
    ends = []
    for seq in range(4, 3004):
        event = Rewarded(
            session_id="s0",
            decision_id=decided.decision.decision_id,
            outcome=Outcome(cost_usd=float(seq)),
            revision=seq,
        )
        if learner.feed(seq, event, "s0"):
            ends.append(seq)
    gaps = np.diff(ends)
    assert gaps[0] == 1
    assert gaps.max() == gaps[-1] == 64
    assert np.all(np.diff(gaps) >= 0)


def test_a_prefix_knows_nothing_of_what_follows(story: Story) -> None:
    for cut in (5, len(story.log) // 3, len(story.log) // 2, len(story.log) - 1):
        _, epochs = fold(story.log[:cut])
        assert epochs == [e for e in story.vintages if e[0] <= story.log[cut - 1].seq]


def test_a_snapshot_of_every_epoch_goes_on_to_the_same_end(story: Story) -> None:
    """A crash at any event resumes from the newest snapshot, which lies at or before it."""
    whole = newest(story.learner)
    learner = Learner()
    checked = 0
    for fed in story.log:
        if not learner.feed(*fed):
            continue
        checked += 1
        if checked % 7:
            continue
        blob = learner.snapshot()
        resumed = Learner.resume(blob, sessions_until(story.log, learner.epoch_seq))
        assert newest(resumed) == newest(learner)
        assert resumed.snapshot() == blob
        rest = [later for later in story.log if later.seq > fed.seq]
        resumed, epochs = fold(rest, resumed)
        assert newest(resumed) == whole
        assert epochs == [e for e in story.vintages if e[0] > fed.seq]
    assert checked > 20


def test_a_snapshot_within_a_block_is_that_of_its_beginning(story: Story) -> None:
    cut = next(i for i in range(len(story.log) - 1, 0, -1) if story.log[i].seq == story.vintages[-1][0])
    at_end, _ = fold(story.log[: cut + 1])
    blob = at_end.snapshot()
    beyond, _ = fold(story.log[cut + 1 :], at_end)
    assert beyond.snapshot() == blob


def test_sticky_answers_and_first_decisions_teach_nothing(story: Story) -> None:
    learner, _ = fold(story.log)
    before = newest(learner)
    first = next(fed.event for fed in story.log if isinstance(fed.event, Decided))
    for i in range(50):
        assert not learner.feed(10_000 + i, Stuck(decision_id=first.decision.decision_id), "s0")
    assert newest(learner) == before


def test_duplicates_leave_the_hash(story: Story) -> None:
    once, _ = fold(story.log)
    twice = Learner()
    seq = 0
    for fed in story.log:
        for _ in range(1 + isinstance(fed.event, Rewarded)):
            seq += 1
            twice.feed(seq, fed.event, fed.session_id)
    a, b = newest(once), newest(twice)
    assert (a[0], a[2]) == (b[0], b[2])


def shuffled(story: Story, seed: int) -> list[Fed]:
    """The story's decisions first and then its rewards in another order."""
    rewards = [fed for fed in story.log if isinstance(fed.event, Rewarded)]
    others = [fed for fed in story.log if not isinstance(fed.event, Rewarded)]
    order = np.random.default_rng(seed).permutation(len(rewards))
    return [Fed(i + 1, fed.event, fed.session_id) for i, fed in enumerate([*others, *(rewards[i] for i in order)])]


def refolded(log: list[Fed]) -> str:
    """The hash after the policy was put away and brought back: everything is folded again in order of decision."""
    learner, _ = fold(log)
    last = log[-1].seq
    assert learner.feed(last + 1, RouterPut(settings=msgspec.structs.replace(SETTINGS, policy="uniform")))
    assert learner.feed(last + 2, RouterPut(settings=SETTINGS))
    assert newest(learner)[3] == "1"
    return newest(learner)[2]


def test_a_policy_that_takes_over_learns_from_all_and_not_from_the_order_of_rewards(story: Story) -> None:
    in_order = refolded(story.log)
    assert refolded(shuffled(story, 1)) == refolded(shuffled(story, 2)) == in_order
    assert in_order != refolded(story.log[: len(story.log) // 2])


def test_a_corrected_reward_counts_as_if_it_had_been_right_from_the_start(story: Story) -> None:
    """The wrong ones come first, the right ones at the end; an older revision that comes late changes nothing."""
    wrong, right = [], []
    for fed in story.log:
        if isinstance(fed.event, Rewarded):
            lie = Outcome(success=1.0 - (fed.event.outcome.success or 0.0), cost_usd=9.0)
            wrong.append(fed._replace(event=msgspec.structs.replace(fed.event, outcome=lie, revision=1)))
            right.append(fed)
        else:
            wrong.append(fed)
    corrected = [Fed(i + 1, f.event, f.session_id) for i, f in enumerate([*wrong, *right])]
    assert refolded(corrected) == refolded(story.log)
    lies = [fed for fed in wrong if isinstance(fed.event, Rewarded)]
    stale = [Fed(i + 1, f.event, f.session_id) for i, f in enumerate([*story.log, *lies[-20:]])]
    assert refolded(stale) == refolded(story.log)


def test_settings_alone_begin_no_epoch(story: Story) -> None:
    learner, _ = fold(story.log)
    before = newest(learner)
    assert not learner.feed(10_000, RouterPut(settings=msgspec.structs.replace(SETTINGS, alpha=0.1, draws=512)))
    assert newest(learner) == before
    assert learner.configuration.settings is not None
    assert learner.configuration.settings.draws == 512


def test_a_new_arm_begins_an_epoch_and_is_offered_a_share(story: Story) -> None:
    learner, _ = fold(story.log)
    epoch = newest(learner)[0]
    assert learner.feed(10_000, ArmPut(arm=Arm(id="e")))
    assert newest(learner)[0] == epoch + 1
    taken = {fed.event.decision.arm for fed in story.log if isinstance(fed.event, Decided)}
    assert taken == {"a", "b", "c", "d"}


def test_it_learns(story: Story) -> None:
    """At the end the strongest arm is believed to be stronger than the weakest."""
    decisions = [fed.event.decision for fed in story.log if isinstance(fed.event, Decided)]
    last = [decision for decision in decisions if decision.attempt == 1][-1]
    means = {score.arm: score.success_mean or 0.0 for score in last.scores}
    assert means["d"] > means["a"] + 0.1


def test_events_come_in_order() -> None:
    learner = Learner()
    learner.feed(5, ArmPut(arm=ARMS[0]))
    for seq in (5, 4):
        with pytest.raises(ValueError, match="was fed after"):
            learner.feed(seq, ArmPut(arm=ARMS[0]))


def test_what_is_no_snapshot_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing has been folded"):
        Learner().snapshot()
    with pytest.raises(ValueError, match="not a learner's snapshot"):
        Learner.resume(b"\x93\x01\x02\x03")


def test_the_hash_is_of_the_dumped_state(story: Story) -> None:
    vintage = story.learner.vintage
    assert vintage is not None
    blob = vintage.policy.dump(vintage.state)
    assert vintage.epoch_hash == state_hash(blob)
    assert len(vintage.epoch_hash) == 32
    assert state_hash(blob + b"\0") != vintage.epoch_hash


def test_decisions_can_be_taken_again_from_the_log(story: Story) -> None:
    """Under the epoch it names, recomputed by another learner, every decision comes out as it was logged."""
    learner, vintages, confirmed = Learner(), {}, 0
    for fed in story.log:
        learner.feed(*fed)
        if learner.vintage is not None:
            vintages[learner.vintage.epoch] = learner.vintage
        if isinstance(fed.event, Decided):
            assert confirm(vintages[fed.event.decision.epoch], fed.event.decision) == ""
            confirmed += 1
    assert confirmed > 120


def without_features(log: list[Fed]) -> list[Fed]:
    """A log as it is read after its erasures were carried out."""
    ends = {fed.session_id: fed.seq for fed in log if isinstance(fed.event, Erased)}
    read = []
    for fed in log:
        event = fed.event
        if fed.seq < ends.get(fed.session_id, 0) and isinstance(event, Decided):
            situation = msgspec.structs.replace(event.decision.situation, features={})
            decision = msgspec.structs.replace(event.decision, situation=situation)
            event = msgspec.structs.replace(event, decision=decision)
        read.append(fed._replace(event=event))
    return read


@pytest.mark.parametrize("policy", ["thompson", "linucb"])
def test_who_goes_on_after_an_erasure_needs_nothing_that_is_gone(policy: str) -> None:
    told = Story(msgspec.structs.replace(SETTINGS, policy=policy))
    told.tell(120)
    gone = [f"s{i}" for i in (3, 50, *range(105, 120))]
    for session_id in gone[:2]:
        corrected = Rewarded(session_id=session_id, outcome=Outcome(success=0.25, cost_usd=1.0), revision=8)
        told.write(corrected, session_id)
    for session_id in gone:
        told.write(Erased(session_id=session_id), session_id)
    last = told.log[-1].seq
    for session_id in gone[:5]:
        again = Rewarded(session_id=session_id, outcome=Outcome(success=0.5, cost_usd=3.0), revision=9)
        told.write(again, session_id)
    told.tell(30)
    read = without_features(told.log)
    whole, learner, at = newest(told.learner), Learner(), []
    for fed in told.log:
        learner.feed(*fed)
        if fed.seq >= last and learner.epoch_seq not in at:
            at.append(learner.epoch_seq)
            resumed = Learner.resume(learner.snapshot(), sessions_until(read, learner.epoch_seq))
            resumed, _ = fold([later for later in read if later.seq > learner.epoch_seq], resumed)
            assert newest(resumed) == whole
    assert len(at) >= 5
    # From the beginning it is another posterior, but one, and the blocks end where they did.
    anew, epochs = fold(read)
    assert newest(anew)[:2] == whole[:2]
    assert newest(anew)[2] != whole[2]
    assert fold(read)[1] == epochs
    assert [seq for seq, _ in epochs] == [seq for seq, _ in told.vintages]
