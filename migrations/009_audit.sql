-- Who did what: append-only, one hash chain per partner and one for the platform.
-- hash = SHA-256(previous hash || seq as 8 bytes, big-endian || entry), the first after 32 zero bytes.

CREATE TABLE IF NOT EXISTS audit_heads (
    partner_id text PRIMARY KEY REFERENCES partners (id) ON DELETE RESTRICT,
    size bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(hash) = 32)
);
CALL cc_secure_partner_table('audit_heads');

CREATE TABLE IF NOT EXISTS audit_log (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    seq bigint NOT NULL CHECK (seq >= 0),
    at timestamptz NOT NULL,
    actor text NOT NULL CHECK (length(actor) <= 300),
    action text NOT NULL CHECK (action ~ '^[a-z_.]{1,64}$'),
    target text NOT NULL CHECK (length(target) <= 300),
    entry bytea NOT NULL CHECK (length(entry) <= 65536),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (partner_id, seq)
);
CALL cc_secure_partner_table('audit_log');

CREATE OR REPLACE FUNCTION cc_refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to' USING ERRCODE = 'integrity_constraint_violation';
END
$function$;
DROP TRIGGER IF EXISTS audit_stays ON audit_log;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION cc_refuse_change_of_audit();
DROP TRIGGER IF EXISTS audit_is_not_emptied ON audit_log;
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION cc_refuse_change_of_audit();

-- Append one entry in the caller's own scope. It locks the chain's head, so it is a transaction's last statement.
CREATE OR REPLACE FUNCTION cc_audit(
    p_partner text, p_at timestamptz, p_actor text, p_action text, p_target text, p_entry bytea)
RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    head record;
    made bytea;
BEGIN
    INSERT INTO audit_heads (partner_id) VALUES (p_partner) ON CONFLICT (partner_id) DO NOTHING;
    SELECT h.size, h.hash INTO STRICT head FROM audit_heads h WHERE h.partner_id = p_partner FOR UPDATE;
    made := sha256(head.hash || int8send(head.size) || p_entry);
    INSERT INTO audit_log (partner_id, seq, at, actor, action, target, entry, hash)
    VALUES (p_partner, head.size, p_at, p_actor, p_action, p_target, p_entry, made);
    UPDATE audit_heads SET size = head.size + 1, hash = made WHERE partner_id = p_partner;
    RETURN head.size;
END
$function$;
REVOKE ALL ON FUNCTION cc_audit(text, timestamptz, text, text, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_audit(text, timestamptz, text, text, text, bytea) TO cc_server, cc_platform;
