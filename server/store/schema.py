"""The tables of the SQLite store, as migrations; `PRAGMA user_version` counts those that were applied.

Sessions and requests come in random order: their B-trees are kept narrow, because each insert there touches a page
of its own (more than half the cost of a large commit). Decision ids are ordered by time, so that table only grows
at its end. `requests` stands apart from `events` so that old keys can be forgotten: the events up to some seq name
the keys to delete. `private` comes last and in no index, so that it can be emptied in place.
"""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE events (
        seq            INTEGER PRIMARY KEY,
        at_us          INTEGER NOT NULL,
        kind           TEXT NOT NULL,
        router         TEXT NOT NULL,
        session_id     TEXT NOT NULL,
        decision_id    TEXT NOT NULL,
        request_key    BLOB NOT NULL,
        request_digest BLOB NOT NULL,
        private_digest BLOB NOT NULL,
        digest         BLOB NOT NULL,
        body           BLOB NOT NULL,
        private        BLOB NOT NULL
    );
    CREATE INDEX events_by_session ON events (session_id, router) WHERE session_id <> '';
    CREATE TABLE decisions (decision_id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE requests (request_key BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE INDEX events_configuring ON events (seq)
        WHERE kind IN ('router_put', 'arm_put', 'policy_put', 'availability_set', 'configured');
    """,
)

COLUMNS = (
    "seq, at_us, kind, router, session_id, decision_id, request_key, request_digest, private_digest, digest, "
    "body, private"
)

INSERT_EVENT = f"INSERT INTO events ({COLUMNS}) VALUES "
INSERT_DECISION = "INSERT INTO decisions (decision_id, seq) VALUES "
INSERT_REQUEST = "INSERT INTO requests (request_key, seq) VALUES "
"""Each is to be followed by the rows."""

LAST_EVENT = "SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1"
READ = f"SELECT {COLUMNS} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
CONFIGURING = (
    f"SELECT {COLUMNS} FROM events INDEXED BY events_configuring "
    "WHERE kind IN ('router_put', 'arm_put', 'policy_put', 'availability_set', 'configured') "
    "AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
)
EVENT = f"SELECT {COLUMNS} FROM events WHERE seq = ?"
DECISION = f"SELECT {COLUMNS} FROM events WHERE seq = (SELECT seq FROM decisions WHERE decision_id = ?)"
SESSION = (
    f"SELECT {COLUMNS} FROM events WHERE session_id = ? AND session_id <> '' AND router = ? AND seq <= ? ORDER BY seq"
)
REQUESTS = (
    "SELECT r.request_key, r.seq, e.request_key, e.request_digest FROM requests r LEFT JOIN events e USING (seq) "
    "WHERE r.request_key IN "
)
SESSIONS = "SELECT DISTINCT session_id FROM events WHERE router = ? AND session_id <> '' AND session_id IN "
"""Each is to be followed by the values in parentheses."""

ERASURES = "SELECT seq, router, session_id FROM events WHERE seq > ? AND seq <= ? AND kind = 'erased' ORDER BY seq"
ERASE = (
    "UPDATE events SET private = x'' "
    "WHERE session_id = ? AND session_id <> '' AND router = ? AND seq < ? AND private <> x''"
)

# Each finds, among the events with ? < seq <= ?, those that a lookup table does not lead to.
UNINDEXED = (
    (
        "the table of decisions does not lead to it",
        """SELECT e.seq FROM events e LEFT JOIN decisions i ON i.decision_id = e.decision_id
           WHERE e.seq > ? AND e.seq <= ? AND e.kind = 'decided' AND i.seq IS NOT e.seq""",
    ),
    (
        "the table of requests does not lead to it",
        """SELECT e.seq FROM events e LEFT JOIN requests i ON i.request_key = e.request_key
           WHERE e.seq > ? AND e.seq <= ? AND e.request_key <> x'' AND i.seq IS NOT e.seq""",
    ),
)
# The rows of a lookup table that lead to an event with seq <= ?: as many as there are such events.
COUNTS = {
    "decisions": "SELECT count(*) FROM decisions WHERE seq <= ?",
    "requests": "SELECT count(*) FROM requests WHERE seq <= ?",
}
