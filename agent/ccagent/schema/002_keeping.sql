-- What keeping evidence for years needs: leaves of rows that left, logs carried over into the next, counted refusals.

-- From which entry on a log goes on in its successor: those entries are uploaded there as `recovered`, not here.
ALTER TABLE epochs ADD COLUMN carried_from INTEGER CHECK (carried_from >= 0);

-- The leaves of 256 rows that left, 32 bytes each, in order.
CREATE TABLE kept_leaves (
    epoch TEXT NOT NULL REFERENCES epochs (epoch),
    first INTEGER NOT NULL CHECK (first >= 0 AND first % 256 = 0),
    leaves BLOB NOT NULL CHECK (length(leaves) = 8192),
    PRIMARY KEY (epoch, first)
) WITHOUT ROWID;

-- Evidence that found no room, until a gap entry has told of it. The row is made here, because when it is needed the
-- file may not grow.
CREATE TABLE refused (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    count INTEGER NOT NULL DEFAULT 0 CHECK (count >= 0),
    first_at INTEGER NOT NULL DEFAULT 0,
    last_at INTEGER NOT NULL DEFAULT 0
);
INSERT INTO refused (id) VALUES (1);

-- The newest row stays although it is receipted: the log's size and last leaf derive from it. A row that was carried
-- over may go once the log that carries it has a receipt for it.
DROP TRIGGER queued_evidence_leaves_only_when_receipted;
CREATE TRIGGER queued_evidence_leaves_only_when_receipted BEFORE DELETE ON queued_evidence
WHEN OLD.seq = (SELECT max(seq) FROM queued_evidence WHERE epoch = OLD.epoch)
    OR (
        OLD.seq >= (SELECT watermark FROM epochs WHERE epoch = OLD.epoch)
        AND NOT EXISTS (
            SELECT 1 FROM epochs AS later
            JOIN queued_evidence AS carrying ON carrying.epoch = later.epoch AND carrying.bundle_id = OLD.bundle_id
            WHERE later.epoch <> OLD.epoch AND carrying.seq < later.watermark
        )
    )
BEGIN SELECT RAISE(ABORT, 'evidence that is not receipted, or the newest of its log, is never deleted'); END;
