"""What Prometheus is told of the agent, as text for node_exporter's textfile collector; no host, site or id in it."""

import contextlib
import os
from pathlib import Path
from typing import Any

_Row = tuple[str, str, str, float | None]


def text(status: dict[str, Any], queued: dict[str, Any], quarantines: int) -> str:
    """Return the metrics of what `status` and `queue` say; what is not known is left out."""
    rows = [*_delivery(status, queued, status["now_ms"]), *_health(status, quarantines), *_healing(status["healing"])]
    lines = []
    for name, kind, says, value in rows:
        if value is not None:
            lines += [f"# HELP {name} {says}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join([*lines, _alarms(status), ""])


def write(path: Path, content: str) -> None:
    """Replace the file whole, readable by everybody; OSError when the folder does not let us."""
    beside = path.with_name(f".{path.name}.new")  # a collector reads *.prom only
    try:
        with beside.open("w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _delivery(status: dict[str, Any], queued: dict[str, Any], now_ms: int) -> list[_Row]:
    room, to = queued["room"], queued["destination"]
    waiting = sum(log["waiting"] for log in queued["logs"])
    return [
        ("ccagent_waiting_entries", "gauge", "Entries without a receipt.", waiting),
        ("ccagent_waiting_bytes", "gauge", "Bytes of entries without a receipt.", queued["waiting_bytes"]),
        ("ccagent_oldest_waiting_seconds", "gauge", "Age of the oldest of them.", status["oldest_age_s"] or 0),
        ("ccagent_store_bytes", "gauge", "Bytes of the store in use.", room["used_bytes"]),
        ("ccagent_store_budget_bytes", "gauge", "Bytes that the store may use.", room["budget_bytes"]),
        ("ccagent_refused_entries", "gauge", "Routine entries without room, not told by a gap yet.", queued["refused"]),
        ("ccagent_withheld_entries", "gauge", "Entries whose payload the server refuses.", status["withheld"]),
        ("ccagent_retry_count", "gauge", "Failures in a row to deliver.", to["retry_count"]),
        (
            "ccagent_last_receipt_seconds",
            "gauge",
            "Age of the last receipt.",
            _age(now_ms, queued["last_receipt_at_ms"]),
        ),
        ("ccagent_logs", "gauge", "Logs that this appliance began.", len(queued["logs"])),
    ]


def _health(status: dict[str, Any], quarantines: int) -> list[_Row]:
    now_ms, vitals = status["now_ms"], status["agent"] or {}
    return [
        ("ccagent_running", "gauge", "Whether the agent runs.", float(status["running"])),
        ("ccagent_enrolled", "gauge", "Whether the appliance is enrolled.", float(status["enrolled"])),
        ("ccagent_quarantines", "gauge", "Stores that were damaged and put aside.", quarantines),
        ("ccagent_last_patrol_seconds", "gauge", "Age of the last patrol.", _age(now_ms, status["last_patrol_at_ms"])),
        (
            "ccagent_last_checkin_seconds",
            "gauge",
            "Age of the last check-in that was answered.",
            _age(now_ms, vitals.get("last_checkin_at_ms")),
        ),
        ("ccagent_open_incidents", "gauge", "Incidents that are open.", status["open_incidents"]),
        ("ccagent_told_at_seconds", "gauge", "When this was written, by the appliance's clock.", now_ms / 1000),
    ]


def _healing(told: dict[str, Any]) -> list[_Row]:
    tries = told["tries"]
    return [
        ("ccagent_heals", "gauge", "Whether repairs are allowed here.", float(told["mode"] == "heal")),
        ("ccagent_repair_tries", "gauge", "Repairs that were tried, of those still on record.", tries["made"]),
        ("ccagent_repair_successes", "gauge", "Those after which the check passed.", tries["succeeded"]),
        ("ccagent_suppressions", "gauge", "Repairs that a person must clear.", len(told["suppressions"])),
        (
            "ccagent_orders_untold",
            "gauge",
            "Newest orders whose result the server has not taken.",
            sum(not one["told"] for one in told["orders"]),
        ),
    ]


def _alarms(status: dict[str, Any]) -> str:
    lines = ["# HELP ccagent_alarms Alarms that stand, by name.", "# TYPE ccagent_alarms gauge"]
    names = [alarm["name"] for alarm in status["alarms"]]
    lines += [f'ccagent_alarms{{name="{name}"}} {names.count(name)}' for name in sorted(set(names))]
    return "\n".join(lines)


def _age(now_ms: int, at_ms: int | None) -> float | None:
    return None if at_ms is None else max(0, now_ms - at_ms) / 1000
