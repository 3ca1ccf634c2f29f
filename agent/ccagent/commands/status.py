"""`cc-agent status`: the truth about this appliance, with the network up or down."""

from typing import Any

import click

from ccagent.commands.calling import Call, answer, moment, print_json, print_table, span


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(call: Call, as_json: bool) -> None:
    """Say how the agent is; works with the network down."""
    told = answer(call, "status")
    if as_json:
        return print_json(told)
    print_table([*_who(told), *_evidence(told), *_server(told), *_healing(told["healing"])])
    for alarm in told["alarms"]:
        click.echo(f"ALARM {alarm['name']} since {moment(alarm['since_ms'])}: {alarm['detail']}")
    click.echo(f"\nlast patrol {moment(told['last_patrol_at_ms'])}, open incidents {told['open_incidents']}")
    print_table([(f"  {one['status']}", one["host"], one["check"], one["reason"]) for one in told["checks"]])
    return None


def _who(told: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("agent", "running" if told["running"] else "not running")]
    if told["identity_error"]:
        return [*rows, ("identity", told["identity_error"])]
    if not told["enrolled"]:
        rows.append(("enrolled", "no: get a code from the operator and run 'cc-agent enroll'"))
    else:
        rows += [
            ("server", f"{told['server']} at {told['server_url']}"),
            ("site", told["site"]),
            ("appliance", told["appliance"]),
        ]
    return [*rows, ("device key", told["fingerprint"] or "none yet")]


def _evidence(told: dict[str, Any]) -> list[tuple[str, str]]:
    if told["epoch"] is None:
        return [("evidence", "nothing is sealed before enrolment")]
    waits = "nothing waits"
    if told["waiting"]:
        oldest = span(told["oldest_age_s"])
        waits = f"{told['waiting']} wait ({told['waiting_bytes']} bytes, the oldest for {oldest})"
    return [
        ("evidence", f"epoch {told['epoch']}, {told['size']} entries, {told['receipted']} receipted, {waits}"),
        ("last receipt", f"{moment(told['last_receipt_at_ms'])}, for {told['last_receipt_size'] or 0} entries"),
    ]


def _server(told: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    to = told["destination"]
    if to["retry_count"]:
        rows.append(("upload", f"failed {to['retry_count']} times: {to['last_error']}"))
        rows.append(("next try", moment(to["next_retry_at_ms"])))
    running = told["agent"]
    if running:
        rows.append(("last check-in", moment(running["last_checkin_at_ms"])))
        if running["checkin_error"]:
            rows.append(("check-in", f"fails: {running['checkin_error']}"))
        rows.append(("clock", running["clock"]))
    return rows


def _healing(told: dict[str, Any]) -> list[tuple[str, str]]:
    tries = told["tries"]
    by = moment(told["policy_version_ms"]) if told["policy_version_ms"] is not None else "none yet"
    rows = [("healing", f"{told['mode']}, policy of {by}, {tries['succeeded']} of {tries['made']} tries succeeded")]
    rows += [
        ("suppressed", f"{one['runbook']} for {one['check']} of {one['host']}: {one['reason']}")
        for one in told["suppressions"]
    ]
    running = [one for one in told["orders"] if one["status"] == "running"]
    return [*rows, *(("order", f"{one['id']} runs: {one['runbook']}") for one in running)]
