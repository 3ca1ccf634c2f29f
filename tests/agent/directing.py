"""What a server signs for an appliance: policies and orders, by the witness's order key, or forged by another."""

import time
from dataclasses import replace
from typing import Any

from ccshared import envelope, ids, orders, policy, rules, runbooks
from ccshared.envelope import PayloadType
from ccshared.orders import SignedOrder
from ccshared.policy import Policy
from ccshared.rules import Rule
from ccshared.runbooks import Runbook
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Witness

NAME = f"{SERVER}/server/order"


def now_ms() -> int:
    return int(time.time() * 1000)


def runbook(runbook_id: str = "run-backup", *argv: str, **more: Any) -> Runbook:
    """Return a runbook for any platform with one step."""
    step = {"argv": list(argv) or ["/bin/true"], "time_limit_s": 20, "about": "the step"}
    plain: dict[str, Any] = {"id": runbook_id, "title": "A test", "about": "For tests.", "families": ["backup"]}
    plain |= {"risk": "low", "disruptive": False, "proves": "backup"}
    if not {"action", "people_only"} & more.keys():
        plain["variants"] = [{"platform": "any", "steps": [step]}]
    return runbooks.from_dict(plain | more)


def rule(runbook_id: str = "run-backup", **more: Any) -> Rule:
    """Return a rule that answers a stale backup."""
    about = [{"field": "incident_type", "operator": "eq", "value": "backup_stale"}]
    plain: dict[str, Any] = {"id": "stale-backup", "name": "stale backup", "priority": 1, "conditions": about}
    return rules.from_dict(plain | {"runbook": runbook_id} | more)


def policy_of(*known: Runbook, **changes: Any) -> Policy:
    """Return a policy that heals at any time."""
    made = Policy(SITE, APPLIANCE, now_ms(), "heal", policy.ALWAYS, False, {}, (rule(),), known or (runbook(),))
    return replace(made, **changes)


def sign_policy(witness: Witness, made: Policy, seed: bytes | None = None) -> dict[str, Any]:
    return envelope.sign(PayloadType.POLICY, policy.make(made), seed or witness.order_seed, NAME).to_json()


def give_policy(witness: Witness, made: Policy) -> None:
    """Let the server have a policy for the appliance."""
    witness.policy, witness.policy_etag = sign_policy(witness, made), str(made.version)


def order_of(book: Runbook, **changes: Any) -> SignedOrder:
    """Return an order that is good for an hour."""
    at_ms = now_ms()
    made = SignedOrder(
        id=ids.new_id(),
        site=SITE,
        appliance=APPLIANCE,
        runbook=book.id,
        digest=runbooks.digest(book),
        parameters={},
        issued_ms=at_ms,
        expires_ms=at_ms + 3_600_000,
    )
    return replace(made, **changes)


def sign_order(witness: Witness, made: SignedOrder, seed: bytes | None = None) -> dict[str, Any]:
    return envelope.sign(PayloadType.ORDER, orders.make(made), seed or witness.order_seed, NAME).to_json()


def give_order(witness: Witness, made: SignedOrder, seed: bytes | None = None) -> str:
    """Let an order wait for the appliance; return its id."""
    witness.orders[made.id] = sign_order(witness, made, seed)
    return made.id
