"""Which incidents are the same kind of trouble: the error pattern and the pattern signature, frozen for v1.

Appliances and server group incidents by the signature, and what was learnt is kept under it, so it never changes;
`tests/shared/patterns_v1.json` holds it to its vectors and `docs/pattern-signature.md` describes it. Every expression
here is ASCII only and starts where a run starts, so a hostile message costs linear time.
"""

import hashlib
import re

from ccshared import canonical

MAX_PATTERN = 200
# What is looked at of a message; the pattern keeps 200 characters of it.
MAX_MESSAGE = 4096

_ASCII = re.ASCII
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK = r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
_ZONE = r"(?: ?(?:Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})(?![0-9A-Za-z_]))?"

_SCRUBBED = re.compile(r"\[([a-z]{2,12}):[0-9a-f]{12}\]")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
_V6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:(?:\.[0-9]{1,3}){3})?(?![\w:])(?:%\w{1,16})?",
    _ASCII,
)
_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])", _ASCII)
_TIMES = (
    # 2026-01-31T10:00:00.5Z, 2026/01/31 10:00:00 +0100, 2026-01-31
    re.compile(rf"(?<!\w)[0-9]{{4}}([-/])[0-9]{{2}}\1[0-9]{{2}}(?:[T ]{_CLOCK}{_ZONE})?(?!\w)", _ASCII),
    # 31/Jan/2026:10:00:00 +0000
    re.compile(rf"(?<!\w)[0-9]{{1,2}}/{_MONTH}/[0-9]{{4}}:{_CLOCK}{_ZONE}(?!\w)", _ASCII),
    # Sat, 31 Jan 2026 10:00:00 GMT
    re.compile(
        rf"(?<!\w)(?:[A-Z][a-z]{{2}}, )?[0-9]{{1,2}} {_MONTH} [0-9]{{4}} {_CLOCK}{_ZONE}(?!\w)",
        _ASCII,
    ),
    # Jan 31 10:00:00, Sat Jan 31 10:00:00 2026
    re.compile(
        rf"(?<!\w)(?:[A-Z][a-z]{{2}} )?{_MONTH} {{1,2}}[0-9]{{1,2}} {_CLOCK}{_ZONE}(?: [0-9]{{4}})?(?!\w)",
        _ASCII,
    ),
    # 10:00:00, 10:00:00.123
    re.compile(rf"(?<![\w:.]){_CLOCK}{_ZONE}(?![\w:])", _ASCII),
)
_V4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9])", _ASCII)
_HEX = re.compile(r"(?<!\w)(?:0[xX][0-9A-Fa-f]+|(?=[0-9]*[A-Fa-f])(?=[A-Fa-f]*[0-9])[0-9A-Fa-f]{8,})(?!\w)", _ASCII)
_PID = re.compile(r"((?<![A-Za-z])(?:pid|process)(?:[ =:#]|is){0,3}|(?<=\w)\[)[0-9]+(?![\w.])", re.IGNORECASE | _ASCII)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def error_pattern(message: str) -> str:
    """Return the message with what varies replaced, at most 200 characters.

    In this order: scrubbed values, UUIDs, IPv6, MAC, timestamps, IPv4, hex digests, PIDs, numbers. Of the message the
    first 4,096 characters count; a lone surrogate becomes `?`.
    """
    text = _encodable(message[:MAX_MESSAGE])
    text = _SCRUBBED.sub(r"[\1:<hex>]", text)
    text = _UUID.sub("<uuid>", text)
    text = _V6.sub(_v6, text)
    text = _MAC.sub("<mac>", text)
    for pattern in _TIMES:
        text = pattern.sub("<time>", text)
    text = _V4.sub("<ip>", text)
    text = _HEX.sub("<hex>", text)
    text = _PID.sub(r"\1<pid>", text)
    return _NUMBER.sub("<n>", text)[:MAX_PATTERN]


def signature(
    incident_type: str,
    check_type: str | None = None,
    drift_type: str | None = None,
    service_name: str | None = None,
    error_message: str | None = None,
) -> str:
    """Return the 16 hex digits under which incidents count as the same pattern.

    They begin the SHA-256 over canonical JSON of type, check_type, drift_type, service_name and error_pattern, without
    those that are None. NotCanonicalError when the words together are longer than canonical JSON may be.
    """
    words = {
        "type": incident_type,
        "check_type": check_type,
        "drift_type": drift_type,
        "service_name": service_name,
        "error_pattern": None if error_message is None else error_pattern(error_message),
    }
    members = {name: _encodable(word) for name, word in words.items() if word is not None}
    return hashlib.sha256(canonical.write(members)).hexdigest()[:16]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _v6(match: re.Match[str]) -> str:
    """Colons alone do not make an address: eight groups do, or one `::` with fewer and at least one digit."""
    address = match[0].partition("%")[0]
    groups = [group for group in address.split(":") if group]
    whole = len(groups) + ("." in address)  # a dotted tail stands for two groups
    short = address.count("::") == 1 and ":::" not in address and 1 <= whole <= 7
    return "<ip>" if short or (whole == 8 and "::" not in address) else match[0]
