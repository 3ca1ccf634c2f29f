-- Entries that the server refuses, and what a person must look at.

-- An entry refused when it was sent alone: how often, since when, and why. `withheld_at`: since when its stub stands for it
-- in what is sent; `delivered_at`: when its payload took its place after all.
CREATE TABLE refused_entries (
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq > 0),
    kind TEXT NOT NULL,
    code TEXT NOT NULL,
    why TEXT NOT NULL,
    tries INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    withheld_at INTEGER,
    delivered_at INTEGER,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID;
CREATE INDEX idx_refused_entries_withheld ON refused_entries (withheld_at)
    WHERE withheld_at IS NOT NULL AND delivered_at IS NULL;

-- A receipt over a stub is no delivery: the payload stays, whatever its age.
CREATE TRIGGER withheld_evidence_stays BEFORE DELETE ON queued_evidence
WHEN EXISTS (
    SELECT 1 FROM refused_entries
    WHERE epoch = OLD.epoch AND seq = OLD.seq AND withheld_at IS NOT NULL AND delivered_at IS NULL
)
BEGIN SELECT RAISE(ABORT, 'a payload that the server does not have yet is never deleted'); END;

-- What happened to this appliance that a person must know; `stands_until` is null where only a person ends it.
CREATE TABLE alarms (
    name TEXT NOT NULL,
    detail TEXT NOT NULL,
    since INTEGER NOT NULL,
    stands_until INTEGER,
    cleared_at INTEGER,
    PRIMARY KEY (name, detail)
) WITHOUT ROWID;
