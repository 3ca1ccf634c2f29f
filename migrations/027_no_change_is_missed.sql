-- A setting or rule that changes while an appliance's policy is being made was missed where that row was marked already: one
-- statement passed it over by what it saw at its beginning, and the mark went with the policy made from what was before. So
-- all rows are locked first, which waits for whoever makes a policy; the next statement then sees what those wrote.
CREATE OR REPLACE FUNCTION cc_policies_change(p_partner text, p_site text, p_appliance text) RETURNS void
LANGUAGE plpgsql AS $function$
DECLARE
    before constant text := current_setting('role');
BEGIN
    SET LOCAL ROLE cc_platform;
    PERFORM FROM appliances l
    WHERE (p_partner IS NULL OR l.partner_id = p_partner) AND (p_site IS NULL OR l.site_id = p_site)
      AND (p_appliance IS NULL OR l.id = p_appliance)
    ORDER BY l.site_id, l.id
    FOR UPDATE;
    UPDATE appliances a SET policy_basis = NULL
    WHERE (p_partner IS NULL OR a.partner_id = p_partner) AND (p_site IS NULL OR a.site_id = p_site)
      AND (p_appliance IS NULL OR a.id = p_appliance) AND a.policy_basis IS NOT NULL;
    PERFORM set_config('role', before, true);
END
$function$;
REVOKE ALL ON FUNCTION cc_policies_change(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cc_policies_change(text, text, text) TO cc_server, cc_platform;

-- What was missed so far is looked at once more: a policy that then says the same keeps its version.
SELECT cc_policies_change(NULL, NULL, NULL);
