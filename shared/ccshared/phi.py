"""The scrubber: personal health data becomes a keyed token before anything is hashed, stored or sent.

A token is `[kind:12 hex]`: 8 hex of HMAC-SHA256 over kind and normalised value, so that equal values correlate on one
appliance and say nothing elsewhere, and 4 hex that seal the token with the same key, so that data written in the form
of a token is not taken for one. Scrubbing what was scrubbed changes nothing.
"""

import hmac
import re
from typing import Any

from ccshared import identifiers
from ccshared.canonical import MAX_DEPTH, Json
from ccshared.identifiers import KeyRule

KEY_BYTES = 32

_TOKEN = re.compile(rf"\[({'|'.join(sorted(identifiers.KINDS))}):([0-9a-f]{{8}})([0-9a-f]{{4}})\]")
_ROUNDS = 4

Rules = tuple[KeyRule, ...]


class ScrubError(Exception):
    """The scrubber failed, so nothing may be stored or sent."""


def scrub(key: bytes, value: Json) -> Json:
    """Return the value with personal health data replaced, wherever text or a key of an object announces it.

    `key` is the appliance's 32 secret bytes. Keys, true, false and null stay; text and numbers under a key such as
    `patient_name` go as a whole. ScrubError for anything that is not JSON without floats, deeper than 16 containers,
    or not scrubbed for whatever reason.
    """
    _check_key(key)
    try:
        return _scrub(key, value, (), 0)
    except ScrubError:
        raise
    except Exception as error:  # whatever it was: the caller must learn that this is not scrubbed
        raise ScrubError("this value could not be scrubbed") from error


def scrub_text(key: bytes, text: str) -> str:
    """Return the text with personal health data replaced; a lone surrogate becomes U+FFFD. ScrubError as above."""
    scrubbed = scrub(key, text)
    if not isinstance(scrubbed, str):
        raise ScrubError("not a text")
    return scrubbed


def _check_key(key: bytes) -> None:
    if type(key) is not bytes or len(key) != KEY_BYTES:
        raise ScrubError(f"the scrubber's key is not {KEY_BYTES} bytes")


def _scrub(key: bytes, value: Any, rules: Rules, depth: int) -> Json:
    if value is None or type(value) is bool:
        return value
    if isinstance(value, str):
        return _scrub_leaf(key, _encodable(str(value)), rules)
    if isinstance(value, int):
        kind = _kind(rules, str(int(value)))
        return int(value) if kind is None else _token(key, kind, str(int(value)))
    if depth == MAX_DEPTH:
        raise ScrubError(f"more than {MAX_DEPTH} nested containers")
    if isinstance(value, list):
        return [_scrub(key, child, rules, depth + 1) for child in value]
    if isinstance(value, dict):
        return {name: _scrub(key, child, _rules(name, rules), depth + 1) for name, child in value.items()}
    raise ScrubError(f"a {type(value).__name__} is not JSON as this system writes it")


def _rules(name: Any, outer: Rules) -> Rules:
    """The rules for what stands under a key: its own before that of a key around it which speaks for all below."""
    if type(name) is not str:
        raise ScrubError("a key that is not text")
    own = identifiers.rule_of_key(name)
    inherited = tuple(rule for rule in outer if rule.inherited)
    return inherited if own is None else (own, *inherited[:1])


def _kind(rules: Rules, value: str) -> str | None:
    return next((rule.kind for rule in rules if rule.accepts(value)), None)


def _scrub_leaf(key: bytes, text: str, rules: Rules) -> str:
    """Replace a text under a telling key as a whole, unless only genuine tokens are left; any other piece by piece."""
    left = _TOKEN.sub(lambda match: "" if _is_genuine(key, match) else match[0], text)
    kind = _kind(rules, left) if left.strip() else None
    return _settle(key, text) if kind is None else _token(key, kind, text)


def _settle(key: bytes, text: str) -> str:
    """Replace until nothing is left to replace; a text that never settles goes as a whole."""
    settled = text
    for _ in range(_ROUNDS):
        before, settled = settled, _pass(key, settled)
        if settled == before:
            return settled
    return _token(key, "text", text)


def _pass(key: bytes, text: str) -> str:
    """Seal anew what only looks like a token, then replace what is found around the tokens."""
    text = _TOKEN.sub(lambda match: match[0] if _is_genuine(key, match) else _token(key, match[1], match[0]), text)
    around = _TOKEN.sub(lambda match: "\0" * len(match[0]), text)
    pieces, done = [], 0
    for found in identifiers.find(around):
        pieces += [text[done : found.start], _token(key, found.kind, text[found.start : found.end])]
        done = found.end
    return "".join([*pieces, text[done:]])


def _token(key: bytes, kind: str, value: str) -> str:
    digest = _mac(key, "value", kind, identifiers.normal(kind, value))[:8]
    return f"[{kind}:{digest}{_seal(key, kind, digest)}]"


def _is_genuine(key: bytes, match: re.Match[str]) -> bool:
    return hmac.compare_digest(_seal(key, match[1], match[2]), match[3])


def _seal(key: bytes, kind: str, digest: str) -> str:
    return _mac(key, "seal", kind, digest)[:4]


def _mac(key: bytes, purpose: str, kind: str, text: str) -> str:
    return hmac.digest(key, f"{purpose}\0{kind}\0{text}".encode(), "sha256").hex()


def _encodable(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
