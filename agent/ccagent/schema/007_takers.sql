-- What this copy of the appliance called itself when it said that it takes an order: made up for that order and kept before
-- the server hears of it, so that a crash in between repeats it and a copy that was made before does not know it.
CREATE TABLE takers (
    order_id TEXT PRIMARY KEY CHECK (length(order_id) BETWEEN 1 AND 64),
    taker TEXT NOT NULL CHECK (length(taker) = 32),
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
