"""The tables in PostgreSQL, as migrations; the table `version` counts those that were applied.

All lie in a schema of their own. Decision ids and request keys are unique by an index, so no table leads to them. The
one row of `head` is locked by whoever appends: numbers are dense, and a reader that sees an event sees all before it.
"""

SCHEMA = "pointsman"

CREATE_SCHEMA = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
CREATE_VERSION = f"CREATE TABLE IF NOT EXISTS {SCHEMA}.version (applied integer NOT NULL)"
HAS_VERSION = f"SELECT to_regclass('{SCHEMA}.version') IS NOT NULL"
VERSION = f"SELECT coalesce(max(applied), 0) FROM {SCHEMA}.version"
APPLIED = f"INSERT INTO {SCHEMA}.version (applied) VALUES (%s)"
ONE_MIGRATES = f"SELECT pg_advisory_xact_lock(hashtext('{SCHEMA} migrates'))"

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE events (
        seq            bigint PRIMARY KEY,
        at_us          bigint NOT NULL,
        kind           text COLLATE "C" NOT NULL,
        router         text COLLATE "C" NOT NULL,
        session_id     text COLLATE "C" NOT NULL,
        decision_id    text COLLATE "C" NOT NULL,
        request_key    bytea NOT NULL,
        request_digest bytea NOT NULL,
        private_digest bytea NOT NULL,
        digest         bytea NOT NULL,
        body           bytea NOT NULL,
        private        bytea NOT NULL
    );
    CREATE INDEX events_by_session ON events (session_id, router, seq) WHERE session_id <> '';
    CREATE UNIQUE INDEX events_by_decision ON events (decision_id) WHERE kind = 'decided';
    CREATE UNIQUE INDEX events_by_request ON events (request_key) WHERE request_key <> '';
    CREATE INDEX events_configuring ON events (seq)
        WHERE kind IN ('router_put', 'arm_put', 'policy_put', 'availability_set', 'configured');
    CREATE TABLE head (
        alone  boolean PRIMARY KEY DEFAULT true CHECK (alone),
        seq    bigint NOT NULL,
        digest bytea NOT NULL
    );
    INSERT INTO head (seq, digest) VALUES (0, decode(repeat('00', 32), 'hex'));
    CREATE TABLE leases (
        name  text PRIMARY KEY,
        token bigint NOT NULL,
        until timestamptz NOT NULL,
        holder text NOT NULL
    );
    CREATE TABLE epochs (
        router  text COLLATE "C" NOT NULL,
        version text COLLATE "C" NOT NULL,
        number  bigint NOT NULL,
        seq     bigint NOT NULL,
        content bytea NOT NULL,
        PRIMARY KEY (router, version, number)
    );
    ALTER TABLE epochs ALTER COLUMN content SET STORAGE EXTERNAL;
    CREATE INDEX epochs_by_number ON epochs (router, number);
    """,
)

COLUMNS = (
    "seq, at_us, kind, router, session_id, decision_id, request_key, request_digest, private_digest, digest, "
    "body, private"
)
_ARRAYS = (
    "%b::bigint[], %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], "
    "%b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[]"
)

HEAD = "SELECT seq, digest FROM head"
LOCK_HEAD = "SELECT seq, digest FROM head FOR UPDATE"
APPEND = f"""
    WITH moved AS (UPDATE head SET seq = %b, digest = %b WHERE seq = %b AND digest = %b RETURNING 1),
    added AS (INSERT INTO events ({COLUMNS}) SELECT added.* FROM moved, unnest({_ARRAYS}) AS added RETURNING 1)
    SELECT count(*), pg_notify('{SCHEMA}', '') FROM added
"""
"""One statement, one transaction: nothing is added where the head is not the one that the events follow."""

LAST_EVENT = "SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1"
READ = f"SELECT {COLUMNS} FROM events WHERE seq > %b AND seq <= %b ORDER BY seq LIMIT %b"
CONFIGURING = (
    f"SELECT {COLUMNS} FROM events "
    "WHERE kind IN ('router_put', 'arm_put', 'policy_put', 'availability_set', 'configured') "
    "AND seq > %b AND seq <= %b ORDER BY seq LIMIT %b"
)
EVENT = f"SELECT {COLUMNS} FROM events WHERE seq = %b"
DECISION = f"SELECT {COLUMNS} FROM events WHERE kind = 'decided' AND decision_id = %b AND seq <= %b"
SESSION = (
    f"SELECT {COLUMNS} FROM events WHERE session_id = %b AND session_id <> '' AND router = %b AND seq <= %b "
    "ORDER BY seq"
)
REQUESTS = (
    "SELECT request_key, request_digest, seq FROM events "
    "WHERE request_key <> '' AND request_key = ANY(%b::bytea[]) AND seq <= %b"
)
SESSIONS = """
    SELECT asked.router, asked.session_id FROM unnest(%b::text[], %b::text[]) AS asked (router, session_id)
    WHERE EXISTS (
        SELECT 1 FROM events
        WHERE events.session_id = asked.session_id AND events.session_id <> '' AND events.router = asked.router
        AND events.seq <= %b
    )
"""

ERASURES = "SELECT seq, router, session_id FROM events WHERE seq > %b AND seq <= %b AND kind = 'erased' ORDER BY seq"
ERASE = (
    "UPDATE events SET private = '' "
    "WHERE session_id = %b AND session_id <> '' AND router = %b AND seq < %b AND private <> ''"
)
VACUUM = "VACUUM events"
"""What was erased still stands in the table until then."""

BY_INDEX = "SELECT set_config('enable_seqscan', 'off', true)"
"""Until the end of the transaction no table is read through where there is an index."""

FOUND_BY_INDEX = (
    (
        "the index of decisions does not lead to it",
        "SELECT seq, decision_id FROM events WHERE seq > %b AND seq <= %b AND kind = 'decided'",
        "SELECT seq, decision_id FROM events WHERE kind = 'decided' AND decision_id = ANY(%b::text[])",
    ),
    (
        "the index of requests does not lead to it",
        "SELECT seq, request_key FROM events WHERE seq > %b AND seq <= %b AND request_key <> ''",
        "SELECT seq, request_key FROM events WHERE request_key <> '' AND request_key = ANY(%b::bytea[])",
    ),
)
"""What is wrong with an event, how it is found by its number, and how by its index."""

TAKE_LEASE = """
    INSERT INTO leases AS lease (name, holder, token, until)
    VALUES (%b, %b, 1, clock_timestamp() + make_interval(secs => %b))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = lease.token + 1, until = excluded.until
    WHERE lease.until < clock_timestamp()
    RETURNING token
"""
RENEW_LEASE = (
    "UPDATE leases SET until = clock_timestamp() + make_interval(secs => %b) WHERE name = %b AND token = %b RETURNING 1"
)
HOLDS_LEASE = "SELECT 1 FROM leases WHERE name = %b AND token = %b"

PUBLISH = f"""
    WITH held AS (SELECT 1 FROM leases WHERE name = %b AND token = %b FOR SHARE),
    published AS (
        INSERT INTO epochs (router, version, number, seq, content) SELECT %b, %b, %b, %b, %b FROM held
        ON CONFLICT DO NOTHING RETURNING 1
    )
    SELECT count(*), pg_notify('{SCHEMA}', '') FROM published
"""
"""Who took the lease over waits for this statement, or this one finds that it is no longer held."""
EPOCH = "SELECT content FROM epochs WHERE router = %b AND version = %b AND number = %b"
LATEST_EPOCHS = (
    "SELECT number, content FROM epochs WHERE router = %b AND version = %b AND seq <= %b AND number < %b "
    "ORDER BY number DESC LIMIT 1"
)
EPOCH_VERSIONS = "SELECT DISTINCT version FROM epochs WHERE router = %b"
EPOCH_NUMBERS = "SELECT number FROM epochs WHERE router = %b AND version = %b ORDER BY number"
NEWEST_EPOCHS = "SELECT DISTINCT ON (router) router, version, number FROM epochs ORDER BY router, number DESC"
THIN_EPOCHS = "DELETE FROM epochs WHERE router = %b AND version = %b AND number = ANY(%b::bigint[])"
