-- Payloads that two persons had erased: their rows stay, empty, with all that roots, sums and links need.

-- What stood where: the bundle's id (null where only its leaf was left), its leaf, how many bytes it had and of when it
-- was. It says of an empty row, and of a leaf that is kept, why nothing else is there.
CREATE TABLE erasures (
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq > 0),
    bundle_id TEXT CHECK (length(bundle_id) = 32),
    leaf BLOB NOT NULL CHECK (length(leaf) = 32),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    created_at INTEGER NOT NULL,
    redaction TEXT NOT NULL,
    erased_at INTEGER NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID;

CREATE TRIGGER erasures_stay BEFORE UPDATE ON erasures
BEGIN SELECT RAISE(ABORT, 'an erasure stays as it was noted'); END;

-- One change alone is allowed: a payload that is noted as erased becomes empty, once the server has it, or has it in the
-- log that carries it.
DROP TRIGGER queued_evidence_is_never_updated;
CREATE TRIGGER queued_evidence_is_never_updated BEFORE UPDATE ON queued_evidence
WHEN coalesce(  -- what is null is not allowed either
    typeof(NEW.bundle_json) = 'blob' AND length(NEW.bundle_json) = 0 AND OLD.seq > 0
    AND NEW.id = OLD.id AND NEW.epoch = OLD.epoch AND NEW.seq = OLD.seq AND NEW.bundle_id = OLD.bundle_id
    AND NEW.leaf = OLD.leaf AND NEW.total_bytes = OLD.total_bytes AND NEW.created_at = OLD.created_at
    AND EXISTS (SELECT 1 FROM erasures WHERE epoch = OLD.epoch AND seq = OLD.seq AND leaf = OLD.leaf)
    AND NOT EXISTS (
        SELECT 1 FROM refused_entries
        WHERE epoch = OLD.epoch AND seq = OLD.seq AND withheld_at IS NOT NULL AND delivered_at IS NULL
    )
    AND (
        OLD.seq < (SELECT watermark FROM epochs WHERE epoch = OLD.epoch)
        OR (
            OLD.seq >= (SELECT carried_from FROM epochs WHERE epoch = OLD.epoch)
            AND NOT EXISTS (
                SELECT 1 FROM epochs AS later
                JOIN queued_evidence AS carrying ON carrying.epoch = later.epoch AND carrying.bundle_id = OLD.bundle_id
                WHERE later.epoch <> OLD.epoch AND carrying.seq >= later.watermark
                    AND (later.carried_from IS NULL OR carrying.seq < later.carried_from)
            )
        )
    ),
    0
) = 0
BEGIN SELECT RAISE(ABORT, 'evidence is never updated'); END;
