-- The agent's store. Times are milliseconds since 1970, UTC, unless a name ends in _s. Hashes are raw bytes.

-- One log of evidence; `watermark` is how many of its entries the server has receipted.
CREATE TABLE epochs (
    epoch TEXT PRIMARY KEY,
    number INTEGER NOT NULL CHECK (number >= 0),
    origin TEXT NOT NULL UNIQUE,
    public_key TEXT NOT NULL CHECK (length(public_key) = 64),
    opened_at INTEGER NOT NULL,
    closed_at INTEGER,
    closed_reason TEXT,
    watermark INTEGER NOT NULL DEFAULT 0 CHECK (watermark >= 0),
    CHECK ((closed_at IS NULL) = (closed_reason IS NULL))
);
CREATE UNIQUE INDEX idx_epochs_one_open ON epochs ((closed_at IS NULL)) WHERE closed_at IS NULL;

CREATE TRIGGER epochs_watermark_moves_forward BEFORE UPDATE OF watermark ON epochs
WHEN NEW.watermark < OLD.watermark
BEGIN SELECT RAISE(ABORT, 'a watermark moves only forward'); END;

-- `bundle_json` holds the exact bytes that `leaf` is the hash of. `total_bytes` is the sum of the payloads of this
-- epoch up to and including this row: what waits is a difference of two rows, however many lie between.
CREATE TABLE queued_evidence (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch TEXT NOT NULL REFERENCES epochs (epoch),
    seq INTEGER NOT NULL CHECK (seq >= 0),
    bundle_id TEXT NOT NULL CHECK (length(bundle_id) = 32),
    bundle_json BLOB NOT NULL,
    leaf BLOB NOT NULL CHECK (length(leaf) = 32),
    total_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (epoch, seq),
    UNIQUE (epoch, bundle_id)
);

CREATE TRIGGER queued_evidence_is_never_updated BEFORE UPDATE ON queued_evidence
BEGIN SELECT RAISE(ABORT, 'evidence is never updated'); END;

-- The newest row stays although it is receipted: the log's size and last leaf derive from it.
CREATE TRIGGER queued_evidence_leaves_only_when_receipted BEFORE DELETE ON queued_evidence
WHEN OLD.seq >= (SELECT watermark FROM epochs WHERE epoch = OLD.epoch)
    OR OLD.seq = (SELECT max(seq) FROM queued_evidence WHERE epoch = OLD.epoch)
BEGIN SELECT RAISE(ABORT, 'evidence that is not receipted, or the newest of its log, is never deleted'); END;

-- The compact range of the tree at this size: its right-edge roots, 32 bytes each, largest subtree first.
CREATE TABLE ranges (
    epoch TEXT NOT NULL REFERENCES epochs (epoch),
    size INTEGER NOT NULL CHECK (size > 0),
    compact BLOB NOT NULL CHECK (length(compact) % 32 = 0),
    PRIMARY KEY (epoch, size)
) WITHOUT ROWID;

-- Every row below `size` was uploaded at `uploaded_at` at the latest.
CREATE TABLE receipts (
    epoch TEXT NOT NULL REFERENCES epochs (epoch),
    size INTEGER NOT NULL CHECK (size > 0),
    receipt TEXT NOT NULL,
    cosigned_at_s INTEGER NOT NULL,
    uploaded_at INTEGER NOT NULL,
    PRIMARY KEY (epoch, size)
) WITHOUT ROWID;

-- How it stands with the server; retries belong to it and not to the rows that wait.
CREATE TABLE destination (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    retry_count INTEGER NOT NULL DEFAULT 0,
    next_retry_at INTEGER,
    error_class TEXT,
    last_error TEXT,
    failing_since INTEGER,
    last_success_at INTEGER
);
INSERT INTO destination (id) VALUES (1);

-- Since when the agent runs on this store; one row once it ran.
CREATE TABLE running (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    since INTEGER NOT NULL
);

-- The latest answer of each check about each host. `sealed_at` is when it was last put in evidence.
CREATE TABLE check_states (
    host_id TEXT NOT NULL,
    check_name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pass', 'fail', 'unknown')),
    severity TEXT NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    sealed_at INTEGER,
    PRIMARY KEY (host_id, check_name)
) WITHOUT ROWID;

CREATE TABLE incidents (
    id TEXT PRIMARY KEY,
    site_id TEXT,
    host_id TEXT NOT NULL,
    check_name TEXT NOT NULL,
    incident_type TEXT NOT NULL,
    severity TEXT NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    raw_data TEXT NOT NULL,
    pattern_signature TEXT NOT NULL CHECK (length(pattern_signature) = 16),
    created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    occurrences INTEGER NOT NULL DEFAULT 1,
    escalated_at INTEGER,
    resolved_at INTEGER,
    resolution_level TEXT CHECK (resolution_level IN ('L1', 'L2', 'L3')),
    resolution_action TEXT,
    outcome TEXT CHECK (outcome IN ('success', 'failed', 'partial', 'escalated', 'timeout', 'recovered')),
    resolution_time_ms INTEGER CHECK (resolution_time_ms >= 0),
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    synced_epoch INTEGER NOT NULL DEFAULT 0,
    synced_revision INTEGER NOT NULL DEFAULT 0,
    CHECK ((resolved_at IS NULL) = (outcome IS NULL)),
    CHECK ((resolved_at IS NULL) = (resolution_time_ms IS NULL))
);
CREATE UNIQUE INDEX idx_incidents_one_open ON incidents (host_id, incident_type, pattern_signature)
    WHERE resolved_at IS NULL;
CREATE INDEX idx_incidents_open_check ON incidents (host_id, check_name) WHERE resolved_at IS NULL;
CREATE INDEX idx_incidents_unsynced ON incidents (severity)
    WHERE synced_epoch < epoch OR (synced_epoch = epoch AND synced_revision < revision);
CREATE INDEX idx_incidents_pattern ON incidents (pattern_signature);
CREATE INDEX idx_incidents_type ON incidents (incident_type);
CREATE INDEX idx_incidents_site ON incidents (site_id, created_at DESC, id DESC);

-- Totals since the store was made. `revision` is a count over the whole table, so that what the server lacks is what
-- stands beyond one number.
CREATE TABLE pattern_stats (
    pattern_signature TEXT PRIMARY KEY,
    incident_type TEXT NOT NULL,
    total_count INTEGER NOT NULL,
    l1_count INTEGER NOT NULL,
    l2_count INTEGER NOT NULL,
    l3_count INTEGER NOT NULL,
    success_count INTEGER NOT NULL,
    total_resolution_time_ms INTEGER NOT NULL,
    promotion_eligible INTEGER NOT NULL DEFAULT 0 CHECK (promotion_eligible IN (0, 1)),
    revision INTEGER NOT NULL UNIQUE
);

-- What the planner (L2) tried for a pattern, per runbook: five different ones are not five times the same.
CREATE TABLE pattern_runbooks (
    pattern_signature TEXT NOT NULL,
    action TEXT NOT NULL,
    total_count INTEGER NOT NULL,
    success_count INTEGER NOT NULL,
    total_resolution_time_ms INTEGER NOT NULL,
    PRIMARY KEY (pattern_signature, action)
) WITHOUT ROWID;

-- Up to which revision the server confirmed the statistics.
CREATE TABLE pattern_sync (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0
);
INSERT INTO pattern_sync (id) VALUES (1);
