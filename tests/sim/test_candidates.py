"""Fixed rules worked out for arrays against the policies themselves, asked situation by situation."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from bandit import policy as policies
from bandit.decision import Vintage
from bandit.errors import InvalidInput
from bandit.types import Arm
from sim.candidates import Learned, rule
from sim.logged import Log
from sim.world import Terms
from tests.sim.logs import ARMS, events_of, whole, write


def frozen(log: Log, name: str, max_attempts: int) -> Learned:
    """A policy that has learned nothing, asked with the log's situations."""
    policy = policies.parse(name)
    state = policy.start([Arm(id=arm) for arm in ARMS])
    return Learned(
        name=name,
        begins=0,
        settings=msgspec.structs.replace(log.settings, policy=name, max_attempts=max_attempts),
        vintage=Vintage(policy=policy, policy_version="1", epoch=0, epoch_hash="", state=state),
        log=log,
    )


@pytest.mark.parametrize("logging", ["uniform", "thompson", "always:b"])
@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_rules_are_what_the_policies_say(logging: str, max_attempts: int, tmp_path: Path) -> None:
    with Log(write(events_of(logging, Terms(detect=0.9, false_alarm=0.1)), tmp_path / "log")) as log:
        for name in ("uniform", "always:c", "ladder:b>a", "ladder:c"):
            fixed = rule(name, policies.parse(name), log.arms, max_attempts)
            assert fixed is not None
            piece = whole(log)
            found, asked = fixed.targets(piece), frozen(log, name, max_attempts).targets(piece)
            assert found == pytest.approx(asked, abs=1e-12)
            assert found.sum(axis=2)[piece.there] == pytest.approx(1.0)


def test_the_logging_policy_itself_has_the_logged_propensities(tmp_path: Path) -> None:
    with Log(write(events_of("uniform"), tmp_path / "log")) as log:
        piece = whole(log)
        fixed = rule("uniform", policies.parse("uniform"), log.arms, 3)
        assert fixed is not None
        assert fixed.targets(piece) == pytest.approx(np.where(piece.there[:, :, None], piece.propensities, 0.0))


def test_arms_that_were_never_offered_are_refused(tmp_path: Path) -> None:
    with (
        Log(write(events_of("uniform", sessions=3), tmp_path / "log")) as log,
        pytest.raises(InvalidInput, match="never offered 'z'"),
    ):
        rule("always:z", policies.parse("always:z"), log.arms, 3)
