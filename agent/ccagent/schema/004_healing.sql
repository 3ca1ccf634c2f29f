-- Repairs, orders and the policy that they follow: recorded before anything begins, so that a crash counts as a try.

-- One try of a runbook for an incident. `boot_id` and `boot_ms` (since that boot) tell how long ago it was whatever the
-- wall clock says; `order_ms` is the order clock's time. `cleared` is 1 once a person let the budget begin anew.
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    repair_id TEXT NOT NULL UNIQUE,
    incident_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    check_name TEXT NOT NULL,
    runbook TEXT NOT NULL,
    level TEXT NOT NULL CHECK (level IN ('L1', 'L2')),
    rule TEXT,
    why TEXT NOT NULL,
    parameters TEXT NOT NULL,
    pre TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    boot_ms INTEGER NOT NULL,
    order_ms INTEGER NOT NULL,
    ended_at INTEGER,
    outcome TEXT CHECK (outcome IN ('success', 'failed', 'partial', 'escalated', 'timeout', 'recovered')),
    reason TEXT,
    cleared INTEGER NOT NULL DEFAULT 0 CHECK (cleared IN (0, 1)),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX idx_attempts_budget ON attempts (host_id, check_name, runbook, id);
CREATE INDEX idx_attempts_incident ON attempts (incident_id, id);
CREATE INDEX idx_attempts_open ON attempts (id) WHERE ended_at IS NULL;

-- A runbook that repaired the same thing again and again, so that a person must look; it stands until one clears it.
CREATE TABLE suppressions (
    host_id TEXT NOT NULL,
    check_name TEXT NOT NULL,
    runbook TEXT NOT NULL,
    since INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (host_id, check_name, runbook)
) WITHOUT ROWID;

-- An order that is ours: recorded as started before it runs, with its result until the server took it, and its id until
-- 30 days after it expired.
CREATE TABLE orders (
    id TEXT PRIMARY KEY,
    envelope_sha256 TEXT NOT NULL,
    runbook TEXT NOT NULL,
    issued_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    status TEXT NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'rejected')),
    result TEXT,
    answered_at INTEGER,
    CHECK ((status = 'running') = (result IS NULL))
);
CREATE INDEX idx_orders_unanswered ON orders (finished_at) WHERE answered_at IS NULL;

-- What was refused before its id could be believed, told once each.
CREATE TABLE refused_orders (
    envelope_sha256 TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL
) WITHOUT ROWID;

-- The newest time that a key of the server's signed, as it was read at `boot_ms` of that boot.
CREATE TABLE order_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    signed_ms INTEGER NOT NULL DEFAULT 0,
    boot_id TEXT NOT NULL DEFAULT '',
    boot_ms INTEGER NOT NULL DEFAULT 0
);
INSERT INTO order_clock (id) VALUES (1);

-- The newest policy that each identity of this appliance took: an older one is not taken any more.
CREATE TABLE policies (
    appliance_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    summary TEXT NOT NULL
) WITHOUT ROWID;

-- What healing says of an incident (JSON), and why a person was asked although it may yet be repaired.
ALTER TABLE incidents ADD COLUMN healing TEXT;
ALTER TABLE incidents ADD COLUMN held_by TEXT CHECK (held_by IN ('mode', 'helper', 'cleared'));

-- What people's orders did for a pattern, per runbook: the planner learns from it, promotion does not.
CREATE TABLE pattern_orders (
    pattern_signature TEXT NOT NULL,
    action TEXT NOT NULL,
    total_count INTEGER NOT NULL,
    success_count INTEGER NOT NULL,
    PRIMARY KEY (pattern_signature, action)
) WITHOUT ROWID;
