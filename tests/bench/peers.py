"""The tables of the peer: the same columns, keys, indexes, checks and storage as ours; no row security, no triggers."""

TABLES = """
    CREATE TABLE peer_appliances (LIKE appliances INCLUDING ALL) WITH (fillfactor = 70);
    INSERT INTO peer_appliances SELECT * FROM appliances;
    CREATE TABLE peer_logs (LIKE evidence_logs INCLUDING ALL);
    CREATE TABLE peer_bundles (LIKE evidence_bundles INCLUDING ALL) WITH (toast_tuple_target = 8160);
"""
