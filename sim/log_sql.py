"""The SQL that makes a log's events a table of decisions and what became of each.

Which of several reports of an outcome counts is as in `bandit.session`. Where nobody contradicts anybody that need not
be asked, so the few sessions where somebody does are worked out apart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bandit.errors import InvalidInput
from bandit.types import EscalationReason, SelectReason
from sim import duck

MOST_ATTEMPTS = 120
"""Of a session."""
TOKENS = ("input_tokens", "output_tokens", "cached_tokens")
ARM_LISTS = "SELECT any_value(arms) FROM events WHERE kind = 'decided' GROUP BY hash(arms) ORDER BY min(seq)"
"""The lists of arms that were offered; of so few the hashes tell them apart."""

_FIELDS = ("success", "cost_usd", *TOKENS)
_ALARMS = ", ".join(duck.quoted(reason) for reason in EscalationReason if reason.is_alarm)
_OFFERS = "(body->'$.event.decision.situation.offers')::VARCHAR"


def every(root: Path) -> str:
    """The view `every` of all rows under a folder, with `log` telling one log's from another's.

    Raises InvalidInput where there is no Parquet file.
    """
    files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root] if root.is_file() else []
    if not files:
        raise InvalidInput("--events", f"{root} holds no Parquet files")
    of_log: dict[Path, list[Path]] = {}
    for file in files:
        day = re.fullmatch(r"day=.*", file.parent.name)
        of_log.setdefault(file.parent.parent if day else file.parent, []).append(file)
    parts = [
        f"SELECT *, {number} AS log FROM read_parquet([{', '.join(duck.quoted(str(file)) for file in members)}], "
        "hive_partitioning = false)"
        for number, members in enumerate(of_log.values())
    ]
    return f"CREATE VIEW every AS {' UNION ALL BY NAME '.join(parts)}"


def events(router: str) -> str:
    """The view `events` of those of one router."""
    return f"CREATE VIEW events AS SELECT * FROM every WHERE router = {duck.quoted(router)}"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The files that a log is put together into, in one folder."""

    folder: Path

    @property
    def steps(self) -> Path:
        """A row for each decision: sessions numbered in the order in which they began, and in it their decisions."""
        return self.folder / "steps.parquet"

    @property
    def sessions(self) -> Path:
        """A row for each session, by its number: where it is in the log."""
        return self.folder / "sessions.parquet"

    @property
    def features(self) -> Path:
        """What sessions are known by, each once, by the code that stands for it among the steps."""
        return self.folder / "features.parquet"


def put_together(arms: Sequence[str], *, one_list: bool, into: Tables) -> tuple[str, ...]:
    """Statements that write the tables. `one_list`: the arms are always offered in this order."""
    return (
        _OUTCOMES, _CONTESTED, _SETTLED, _WHOLE, _LEFT, _BEGUN, _SESSIONS, _PRICED, _FEATURES,
        _copy("SELECT session, log, session_id, first_seq FROM sessions", into.sessions),
        _copy("SELECT code, features FROM features", into.features),
        _copy(_steps(arms, one_list), into.steps),
    )  # fmt: skip


def _copy(query: str, target: Path) -> str:
    return f"COPY ({query}) TO {duck.quoted(str(target))} (FORMAT parquet)"


_OUTCOMES = f"""CREATE TEMP TABLE outcomes AS
SELECT log, decision_id, {", ".join(f"max({field}) AS {field}" for field in _FIELDS)},
    count(success) > 1 OR count(cost_usd) > 1 OR count(input_tokens) > 1 AS several
FROM events WHERE kind IN ('escalated', 'rewarded') AND decision_id <> '' GROUP BY log, decision_id"""
"""What was told of each decision, right where each field was told once."""

_CONTESTED = """CREATE TEMP TABLE contested AS
SELECT log, session_id FROM events WHERE kind = 'rewarded' AND decision_id = ''
UNION
SELECT log, session_id FROM events SEMI JOIN (SELECT log, decision_id FROM outcomes WHERE several)
    USING (log, decision_id)"""
"""Sessions in which a report may have to give way to another."""


def _told(field: str) -> str:
    """What was told of a decision, from `outcomes` and, where that may have to give way, `settled`."""
    return f"CASE WHEN settled.log IS NULL THEN outcomes.{field} ELSE settled.{field} END AS {field}"


def _counts(field: str) -> str:
    """What counts of a field that several reports carry, and the rank of the report that it came from."""
    return (
        f"arg_max({field}, rank) FILTER ({field} IS NOT NULL) AS {field}, "
        f"max(rank) FILTER ({field} IS NOT NULL) AS {field}_rank"
    )


_SETTLED = f"""CREATE TEMP TABLE settled AS
SELECT log, session_id, decision_id, {", ".join(map(_counts, _FIELDS))}
FROM (
    SELECT *,
        -- An Escalate's outcome is a revision of its own: one more than the session's highest so far.
        (CASE WHEN kind = 'rewarded' THEN revision ELSE escalated + greatest(0, coalesce(max(revision - escalated)
            FILTER (kind = 'rewarded') OVER (PARTITION BY log, session_id ORDER BY seq), 0)) END, seq) AS rank
    FROM (
        SELECT log, session_id, decision_id, seq, kind, revision, {", ".join(_FIELDS)},
            count(*) FILTER (kind = 'escalated') OVER (PARTITION BY log, session_id ORDER BY seq) AS escalated
        FROM events SEMI JOIN contested USING (log, session_id) WHERE kind IN ('escalated', 'rewarded')
    )
) GROUP BY log, session_id, decision_id"""

_WHOLE = """CREATE TEMP TABLE whole AS
WITH spent AS (
    -- In an order of their own: sums are to be the same however many threads there are.
    SELECT log, session_id, sum(cost_usd ORDER BY decision_id) AS spent
    FROM settled WHERE decision_id <> '' GROUP BY log, session_id
), closed AS (
    SELECT log, session_id,
        max(success) FILTER (kind = 'closed') AS assumed,
        coalesce(bool_or(final) FILTER (kind = 'rewarded'), false) AS rewarded
    FROM events SEMI JOIN (SELECT log, session_id FROM events WHERE kind = 'closed') USING (log, session_id)
    WHERE kind IN ('closed', 'rewarded') GROUP BY log, session_id
)
SELECT log, session_id, success, success_rank, cost_usd, cost_usd_rank, coalesce(spent, 0.0) AS spent,
    CASE WHEN NOT rewarded THEN assumed END AS assumed
FROM (SELECT * FROM settled WHERE decision_id = '')
LEFT JOIN spent USING (log, session_id) FULL JOIN closed USING (log, session_id)"""
"""What was told, or assumed, of sessions as wholes."""

_LEFT = f"""CREATE TEMP TABLE left_with AS
SELECT log, decision_id, bool_or(reason IN ({_ALARMS})) AS alarm,
    max(coalesce(TRY_CAST(body->>'$.event.stop_propensity' AS DOUBLE), 0.0)) AS stop,
    bool_or(coalesce(body->>'$.event.next_decision_id', '') = '') AS gave_up
FROM events WHERE kind = 'escalated' GROUP BY log, decision_id"""

_BEGUN = """CREATE TEMP TABLE begun AS
SELECT log, session_id, first_seq, attempts, decisions = attempts AS whole, decisions <> rows AS twice
FROM (
    -- A bit an attempt: to count those that differ takes three times as long.
    SELECT log, session_id, min(seq) AS first_seq, max(attempt) AS attempts,
        bit_count(bit_or(1::HUGEINT << attempt)) AS decisions, count(*) AS rows
    FROM events WHERE kind = 'decided' GROUP BY log, session_id
)"""
"""Sessions of which there is a decision; where days are missing, not every one is whole."""

TWICE = "SELECT first_seq FROM begun WHERE twice ORDER BY first_seq LIMIT 1"
"""The first event of a session of which there is a decision twice, if there is one."""

_SESSIONS = """CREATE TEMP TABLE sessions AS
SELECT log, session_id, first_seq, attempts, row_number() OVER (ORDER BY log, first_seq) - 1 AS session
FROM begun WHERE whole"""

_PRICED = f"""CREATE TEMP TABLE priced AS
SELECT log, decision_id, {", ".join(TOKENS)}, {_OFFERS} AS priced
FROM (SELECT log, decision_id, body FROM events WHERE kind = 'decided') JOIN (
    SELECT outcomes.log, outcomes.decision_id, {", ".join(map(_told, TOKENS))}
    FROM outcomes LEFT JOIN settled USING (log, decision_id)
    WHERE outcomes.cost_usd IS NULL AND outcomes.input_tokens IS NOT NULL
) USING (log, decision_id)"""
"""Prices, and what was used, where dollars were not told, but tokens."""

_KNOWN_BY = "coalesce(features::VARCHAR, '')"
_FEATURES = f"""CREATE TEMP TABLE features AS
SELECT features, row_number() OVER (ORDER BY first) - 1 AS code
FROM (
    SELECT {_KNOWN_BY} AS features, min((log, seq)) AS first FROM events WHERE kind = 'decided' GROUP BY 1
)"""


def _steps(arms: Sequence[str], one_list: bool) -> str:
    names = [duck.quoted(arm) for arm in arms]
    of_arm = [
        f"propensities[{k + 1}]" if one_list else f"coalesce(propensities[list_position(arms, {name})], 0.0)"
        for k, name in enumerate(names)
    ]
    chances = ", ".join(f"{chance} AS p{k}" for k, chance in enumerate(of_arm))
    nothing = " + ".join(f"({chance} = 0.0)::INT" for chance in of_arm)
    return f"""
WITH decided AS (
    SELECT log, session_id, decision_id, attempt, list_position([{", ".join(names)}], arm) - 1 AS arm,
        reason = '{SelectReason.PINNED}' AS pinned, {_KNOWN_BY} AS features, {chances},
        -- An arm that was not tried before and has no chance may be ruled out, or not wanted: that is read in full.
        CASE WHEN {nothing} > attempt - 1 THEN {_OFFERS} END AS offers
    FROM events WHERE kind = 'decided'
), own AS (
    SELECT decided.*, {_told("success")}, {_told("cost_usd")}, success_rank, cost_usd_rank
    FROM decided LEFT JOIN outcomes USING (log, decision_id) LEFT JOIN settled USING (log, decision_id)
)
SELECT session, (attempt - 1)::BIGINT AS place, code, arm, pinned, offers, attempt = attempts AS ends,
    {", ".join(f"p{k}" for k in range(len(arms)))},
    coalesce(alarm, false) AS alarm, coalesce(stop, 0.0) * coalesce(alarm, false)::INT AS stop,
    coalesce(gave_up AND alarm, false) AS gave_up,
    coalesce(
        CASE WHEN attempt = attempts AND whole.success IS NOT NULL
            AND (own.success_rank IS NULL OR whole.success_rank >= own.success_rank)
            THEN whole.success ELSE own.success END,
        CASE WHEN attempt = attempts THEN assumed END) AS success,
    CASE WHEN attempt = attempts AND whole.cost_usd IS NOT NULL
        AND (own.cost_usd_rank IS NULL OR whole.cost_usd_rank >= own.cost_usd_rank)
        THEN greatest(0.0, whole.cost_usd - (spent - coalesce(own.cost_usd, 0.0))) ELSE own.cost_usd END AS cost_usd,
    {", ".join(TOKENS)}, priced
FROM own
JOIN sessions USING (log, session_id)
JOIN features USING (features)
LEFT JOIN whole USING (log, session_id)
LEFT JOIN left_with USING (log, decision_id)
LEFT JOIN priced USING (log, decision_id)
ORDER BY session, place"""
