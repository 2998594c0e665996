"""The checker on histories that are right, on such that are wrong, and on a real server under faults."""

import pytest

from tests.faults import checker, linearize
from tests.faults.history import (
    NEVER,
    Accepted,
    Chosen,
    Escalate,
    Exhausted,
    Inconsistent,
    Look,
    Operation,
    Refused,
    Reward,
    Seen,
    SeenAttempt,
    Select,
)

FIRST = Chosen("d1", "a", 1, sticky=False, pinned=False)
AGAIN = FIRST._replace(sticky=True)
SECOND = Chosen("d2", "b", 2, sticky=False, pinned=False)
THIRD = Chosen("d3", "c", 3, sticky=False, pinned=False)
STALE = Refused("FAILED_PRECONDITION")


def done(asked, answer, begun, ended, key=""):
    return Operation(
        number=0, session="s", asked=asked, key=key, begun=begun, ended=ended, answer=answer, raw=repr(answer).encode()
    )


def lost(asked, begun, key=""):
    return Operation(number=0, session="s", asked=asked, key=key, begun=begun)


def look(begun, *attempts, exhausted=False, final=False, success=None):
    seen = Seen(tuple(SeenAttempt(*attempt) for attempt in attempts), exhausted, final, success)
    return done(Look(), seen, begun, begun + 0.5)


def told(revision, success, cost, *, decision="d1", final=False):
    return Reward(decision, revision, success, cost, final)


RIGHT = {
    "one after the other": [
        done(Select(), FIRST, 0, 1),
        done(Select(), AGAIN, 2, 3),
        done(Escalate("d1", 0.5), SECOND, 4, 5),
        done(Escalate("d1", 0.5), STALE, 6, 7),
        look(8, ("d1", "a", 0.5), ("d2", "b", None)),
    ],
    "at once, and the other way round": [
        done(Select(), AGAIN, 0, 9),
        done(Select(), FIRST, 1, 8),
        done(Look(), Refused("NOT_FOUND"), 2, 7),
    ],
    "lost on the way there": [lost(Select(), 0), done(Select(), FIRST, 5, 6)],
    "lost on the way back": [lost(Select(), 0), done(Select(), AGAIN, 5, 6), look(7, ("d1", "a", None))],
    "lost, and carried out late": [
        done(Select(), FIRST, 0, 1),
        lost(Escalate("d1", None), 2),
        done(Select(), AGAIN, 3, 4),
        look(5, ("d1", "a", None), ("d2", "b", None)),
    ],
    "repeated": [
        done(Select(), FIRST, 0, 1, "k"),
        done(Escalate("d1", None), SECOND, 2, 3),
        done(Select(), FIRST, 4, 5, "k"),
        done(Select(pinned="c"), Refused("ALREADY_EXISTS"), 6, 7, "k"),
    ],
    "to the end of the ladder": [
        done(Select(), FIRST, 0, 1),
        done(Escalate("d1", None), SECOND, 2, 3),
        done(Escalate("d2", None), THIRD, 4, 5),
        done(Escalate("d3", None), Exhausted(), 6, 7),
        done(Select(), STALE, 8, 9),
    ],
    "revisions": [
        done(Select(), FIRST, 0, 1),
        done(told(5, 1.0, None), Accepted(5), 2, 3),
        done(told(4, 0.0, 2.0), Accepted(4), 4, 5),
        done(told(None, None, 3.0, final=True), Accepted(6), 6, 7),
        look(8, ("d1", "a", 3.0), final=True, success=1.0),
    ],
}
WRONG = {
    "decided twice": [done(Select(), FIRST, 0, 1), done(Select(), FIRST._replace(decision="d9"), 2, 3)],
    "an acknowledged decision is gone": [done(Select(), FIRST, 0, 1), done(Look(), Refused("NOT_FOUND"), 2, 3)],
    "another arm": [done(Select(), FIRST, 0, 1), done(Select(), AGAIN._replace(arm="b"), 2, 3)],
    "stuck to nothing": [done(Select(), AGAIN, 0, 1)],
    "escalated twice": [
        done(Select(), FIRST, 0, 1),
        done(Escalate("d1", None), SECOND, 2, 3),
        done(Escalate("d1", None), THIRD, 4, 5),
    ],
    "the same arm again": [
        done(Select(), FIRST, 0, 1),
        done(Escalate("d1", None), SECOND._replace(arm="a"), 2, 3),
    ],
    "an attempt left out": [done(Select(), FIRST, 0, 1), done(Escalate("d1", None), THIRD, 2, 3)],
    "exhausted too early": [done(Select(), FIRST, 0, 1), done(Escalate("d1", None), Exhausted(), 2, 3)],
    "a repeat with another answer": [
        done(Select(), FIRST, 0, 1, "k"),
        done(Select(), AGAIN, 2, 3, "k"),
    ],
    "a repeat that is taken for new": [
        done(Select(), FIRST, 0, 1),
        done(told(None, 1.0, 1.0), Accepted(1), 2, 3, "k"),
        done(told(None, 1.0, 1.0), Accepted(2), 4, 5, "k"),
    ],
    "a conflict that is none": [
        done(Select(), FIRST, 0, 1, "k"),
        done(Select(), Refused("ALREADY_EXISTS"), 2, 3, "other"),
    ],
    "counted twice": [
        done(Select(), FIRST, 0, 1),
        done(told(None, 1.0, 1.0), Accepted(1), 2, 3),
        done(told(None, 1.0, 1.0), Accepted(3), 4, 5),
    ],
    "an older revision wins": [
        done(Select(), FIRST, 0, 1),
        done(told(5, None, 1.0), Accepted(5), 2, 3),
        done(told(4, None, 2.0), Accepted(4), 4, 5),
        look(6, ("d1", "a", 2.0)),
    ],
    "goes on after its end": [
        done(Select(), FIRST, 0, 1),
        done(told(None, 1.0, 1.0, final=True), Accepted(1), 2, 3),
        done(Select(), AGAIN, 4, 5),
    ],
    "refused without a reason": [done(Select(), FIRST, 0, 1), done(Escalate("d1", None), STALE, 2, 3)],
    "before it was asked": [
        done(Select(), FIRST, 0, 1),
        look(2, ("d1", "a", None), ("d2", "b", None)),
        lost(Escalate("d1", None), 4),
    ],
    "what was lost happened, and then had not": [
        done(Select(), FIRST, 0, 1),
        lost(Escalate("d1", None), 2),
        look(3, ("d1", "a", None), ("d2", "b", None)),
        look(5, ("d1", "a", None)),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_promised_is_taken(name):
    linearize.check(RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_promised_is_caught(name):
    with pytest.raises(Inconsistent):
        linearize.check(WRONG[name])


def test_nothing_is_known_of_what_was_not_answered():
    assert lost(Select(), 0).ended == NEVER


def test_clients_of_a_server_under_faults_are_told_one_story(shimmed):
    # How many of the sessions are answered to the end, and so can be lied about, the machine decides.
    assert checker.run(shimmed)["operations"] > 30
