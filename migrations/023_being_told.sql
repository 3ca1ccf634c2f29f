-- Being told: problems as a sweep notices them, what each channel is told of them, and every attempt to tell it.

ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS target_hint text NOT NULL DEFAULT ''
    CHECK (length(target_hint) <= 300);                        -- the host alone: what people know it by
ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS site_ids text[]
    CHECK (cardinality(site_ids) BETWEEN 1 AND 200);           -- null: every site
ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS grace_s integer NOT NULL DEFAULT 120
    CHECK (grace_s BETWEEN 0 AND 86400);
ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS resend_s integer NOT NULL DEFAULT 3600
    CHECK (resend_s = 0 OR resend_s BETWEEN 60 AND 604800);    -- 0: once is enough
ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS resend_max integer NOT NULL DEFAULT 3
    CHECK (resend_max BETWEEN 0 AND 100);
ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS snoozed_until timestamptz;
-- Of what was noticed before it the channel is not told: no flood when a channel is made or enabled again.
ALTER TABLE notification_channels ADD COLUMN IF NOT EXISTS tells_from timestamptz NOT NULL DEFAULT now();
CREATE INDEX IF NOT EXISTS idx_notification_channels_partner
    ON notification_channels (partner_id, created_at DESC, id DESC);

-- What somebody may have to look after, from when it was noticed until it ended: an open incident, an appliance that
-- does not answer … The platform's own are partner 'platform'. `subject` says of what it is; one of them is open at once.
CREATE TABLE IF NOT EXISTS problems (
    partner_id text NOT NULL REFERENCES partners (id) ON DELETE RESTRICT,
    id text NOT NULL CHECK (id ~ '^[0-9a-z-]{1,64}$'),
    kind text NOT NULL CONSTRAINT problems_kind_known
        CHECK (kind IN ('incident', 'offline', 'silent', 'alarm', 'fork', 'log', 'channel', 'sweep')),
    subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 300),
    of_site text,
    of_appliance text,
    of_incident text,
    severity text NOT NULL CONSTRAINT problems_severity_known CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    says text NOT NULL CHECK (length(says) BETWEEN 1 AND 500),
    began_at timestamptz NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    escalated_at timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text CHECK (length(acknowledged_by) <= 300),
    snoozed_until timestamptz,
    ended_at timestamptz,
    told text[] NOT NULL DEFAULT '{}', -- 'event:channel', so that nothing is looked for in the outbox, which grows
    revision bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (partner_id, id),
    FOREIGN KEY (of_site, partner_id) REFERENCES sites (id, partner_id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_problems_open ON problems (partner_id, kind, subject) WHERE ended_at IS NULL;
CREATE INDEX IF NOT EXISTS idx_problems_partner ON problems (partner_id, noticed_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_problems_ended ON problems (ended_at) WHERE ended_at IS NOT NULL;
CALL cc_secure_partner_table('problems');

-- The outbox goes by problem and event. `claimed_until`: a sender is at it; whoever died over it is followed by another.
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS problem_id text;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS event text NOT NULL DEFAULT 'test' CONSTRAINT notifications_event_known
    CHECK (event IN ('opened', 'escalated', 'acknowledged', 'reminder', 'ended', 'test'));
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS claimed_until timestamptz;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS dead_at timestamptz;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS remind_at timestamptz;  -- when the next of them is to be written
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS reminders integer NOT NULL DEFAULT 0 CHECK (reminders >= 0);
CREATE INDEX IF NOT EXISTS idx_notifications_remind ON notifications (remind_at) WHERE remind_at IS NOT NULL;
-- NOT VALID, because to look at rows the owner would need a scope: those that are there have no problem, and fit.
ALTER TABLE notifications DROP CONSTRAINT IF EXISTS notifications_problem;
ALTER TABLE notifications ADD CONSTRAINT notifications_problem
    FOREIGN KEY (partner_id, problem_id) REFERENCES problems (partner_id, id) ON DELETE CASCADE NOT VALID;
CREATE INDEX IF NOT EXISTS idx_notifications_waiting ON notifications (partner_id, channel_id, problem_id, created_at)
    WHERE delivered_at IS NULL AND dead_at IS NULL;
CREATE INDEX IF NOT EXISTS idx_notifications_partner ON notifications (partner_id, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_notifications_problem ON notifications (partner_id, problem_id);
CREATE INDEX IF NOT EXISTS idx_notifications_dead ON notifications (dead_at) WHERE dead_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS notification_attempts (
    partner_id text NOT NULL,
    notification_id text NOT NULL,
    number integer NOT NULL CHECK (number >= 1),
    at timestamptz NOT NULL DEFAULT now(),
    took_ms integer NOT NULL CHECK (took_ms >= 0),
    status integer,                    -- what the receiver answered, where it did
    error text CHECK (length(error) <= 500),
    PRIMARY KEY (partner_id, notification_id, number),
    FOREIGN KEY (partner_id, notification_id) REFERENCES notifications (partner_id, id) ON DELETE CASCADE
);
CALL cc_secure_partner_table('notification_attempts');

CREATE OR REPLACE FUNCTION cc_severity_rank(severity text) RETURNS integer LANGUAGE sql IMMUTABLE AS $function$
    SELECT array_position(ARRAY['low', 'medium', 'high', 'critical'], severity)
$function$;

-- Whether a channel is one that is told of a problem at all, whenever that is.
CREATE OR REPLACE FUNCTION cc_concerns(c notification_channels, p problems) RETURNS boolean LANGUAGE sql IMMUTABLE
AS $function$
    SELECT c.partner_id = p.partner_id AND c.disabled_at IS NULL AND p.noticed_at >= c.tells_from
       AND (c.site_ids IS NULL OR p.of_site = ANY (c.site_ids))
       AND cc_severity_rank(p.severity) >= cc_severity_rank(c.min_severity)
       AND NOT (p.kind = 'channel' AND p.subject = c.id)
$function$;

-- What is said of a problem, frozen when it is said: the same again has the same content.
CREATE OR REPLACE FUNCTION cc_said(p problems) RETURNS jsonb LANGUAGE plpgsql STABLE AS $function$
BEGIN
    RETURN jsonb_build_object(
        'problem', p.id, 'kind', p.kind, 'severity', p.severity, 'says', p.says, 'site', p.of_site,
        'site_name', (SELECT s.name FROM sites s WHERE s.id = p.of_site AND s.partner_id = p.partner_id),
        'appliance', p.of_appliance, 'incident', p.of_incident, 'began_at', p.began_at, 'ended_at', p.ended_at,
        'escalated', p.escalated_at IS NOT NULL, 'acknowledged_by', p.acknowledged_by);
END
$function$;
