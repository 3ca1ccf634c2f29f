"""What identifies a patient: what follows a label ("MRN 4711"), stands under a key ("mrn") or has a telling form.

Ports, PIDs, epochs, sizes, hashes, versions and machine addresses carry no such label and stay. Every expression
starts at a label or where a run of characters starts, and looks a bounded way ahead before it takes a value, so a
hostile text costs linear time.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

KINDS = frozenset(
    {"ssn", "mrn", "patient", "name", "phone", "email", "card", "dob", "address", "account"}
    | {"insurance", "medicare", "licence", "host", "text"}
)


class Found(NamedTuple):
    """A stretch of a text, by character positions, and the kind of identifier it holds."""

    start: int
    end: int
    kind: str


class KeyRule(NamedTuple):
    """What a key says of its value: the kind, which values count, and whether it speaks for all that nests below."""

    kind: str
    key: re.Pattern[str]
    accepts: Callable[[str], bool]
    inherited: bool


class _View(NamedTuple):
    """A text as it is matched: look-alikes folded to ASCII, and that in lower case; `places` leads back to the text."""

    shown: str
    low: str
    places: Sequence[int]


# A finder is given where a value would start and where the next label stands; it returns the value's end, or None.
_Finder = Callable[[_View, int, int], int | None]


class _Rule(NamedTuple):
    kind: str
    label: str
    value: _Finder


def find(text: str) -> list[Found]:
    """Return the identifiers in a text, in order, none overlapping another."""
    view = _view_of(text)
    places = view.places
    return [
        Found(places[one.start], places[one.end - 1] + 1, one.kind)
        for one in _merged(sorted([*_labelled(view), *_by_form(view)]))
    ]


def rule_of_key(key: str) -> KeyRule | None:
    """Return what this key of an object says of its value, or None; `patientName` and `patient_name` are one key."""
    words = re.sub(r"[^a-z0-9]+", " ", _HUMP.sub(" ", key).lower()).strip()
    if words.rpartition(" ")[2] in _NEUTRAL_ENDS:
        return None
    return next((rule for rule in _KEY_RULES if rule.key.search(words)), None)


def normal(kind: str, value: str) -> str:
    """Return the spelling that equal values share: letters and digits in lower case, whatever separates them."""
    folded = _view_of(value).low
    if kind not in ("email", "host"):
        folded = "".join(filter(str.isalnum, folded)) or folded
    if kind == "phone" and len(folded) == 11:
        folded = folded.removeprefix("1")
    return folded


_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z]|[0-9])")


# --- the text as it is matched


def _view_of(text: str) -> _View:
    if text.isascii():
        return _View(text, text.lower(), range(len(text)))
    folded = {char: _fold(char) for char in set(text)}
    shown = "".join(map(folded.__getitem__, text))
    places = [place for place, char in enumerate(text) if folded[char]]
    return _View(shown, "".join(char.lower()[0] for char in shown), places)


def _fold(char: str) -> str:
    """Fold a character to one that looks the same in ASCII where there is one; what is invisible goes."""
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me"):
        return ""
    if category[0] == "Z":
        return " "
    if category == "Pd" or char == "\N{MINUS SIGN}":
        return "-"
    if category == "Nd":
        return str(unicodedata.decimal(char))
    plain = unicodedata.normalize("NFKC", char)
    return plain if len(plain) == 1 else char


def _merged(found: Iterable[Found]) -> Iterator[Found]:
    last: Found | None = None
    for one in found:
        if last and one.start < last.end:
            last = Found(last.start, max(last.end, one.end), last.kind)
            continue
        if last:
            yield last
        last = one
    if last:
        yield last


# --- values after a label

# What may stand between a label and its value.
_GAP = re.compile(
    r"""(?:[\s"'\\:=#>|,.(\[/_*-]+|(?:is|was|are|were|numbers?|no|nr|num|ids?|value|code|of|on file|on|in|the|for"""
    r"""|field|has|policy|card|plan|member|last 4|last four|ending in|ends in)(?![a-z])"""
    r"""|&(?:quot|nbsp|#3[49]);){0,16}"""
)
# A label that surely announces a value ends the value before it; an address may hold the word "account".
_FIRM = re.compile(r"""[\s"'\\]{0,3}(?:[:=#]|(?:number|no|id)?[ .]{0,2}\d)""")
_RUN = re.compile(r"[^\W_][\w.-]*")
_GROUPED = re.compile(r"(?:\d{2,4}|[a-z]{1,2}\d{2,4}|[a-z])(?:[ -]\d{2,6}){1,6}(?![\w:/-]|\.\w)")
_MORE = re.compile(
    r"\s{0,3}(?:[,;/|&+]|(?:and|or)(?![a-z]))\s{0,3}#?"
    r"(?!\d{4}-\d\d-\d\d|1\d{9}(?!\d)|[\d.:]{0,20}[.:]\d)(?P<value>\d[\d-]{2,})(?![\w:])"
)
_LISTS = frozenset({"ssn", "mrn", "patient", "phone", "account", "insurance", "medicare", "licence"})
_REACH = 64  # how far is looked before a value is taken; what is taken is then taken whole


def _labelled(view: _View) -> Iterator[Found]:
    labels = list(_LABEL.finditer(view.shown))
    limits = _limits(view, labels)
    done = 0
    for label, limit in zip(labels, limits, strict=True):
        if label.start() < done:
            continue
        rule = _RULES[int(str(label.lastgroup)[1:])]
        for one in _values(view, rule, label.end(), limit):
            yield one
            done = one.end


def _limits(view: _View, labels: list[re.Match[str]]) -> list[int]:
    """For each label, where the next firm one starts."""
    limits, limit = [], len(view.low)
    for label in reversed(labels):
        limits.append(limit)
        if _FIRM.match(view.low, label.end()):
            limit = label.start()
    return limits[::-1]


def _values(view: _View, rule: _Rule, at: int, limit: int) -> Iterator[Found]:
    start = _end_of(_GAP, view, at, limit) or at
    end = rule.value(view, start, limit)
    if end is None:
        return
    end = _unquoted(view, start, end)
    yield Found(start, end, rule.kind)
    while rule.kind in _LISTS and (more := _MORE.match(view.low, end, limit)):
        end = more.end("value")
        yield Found(more.start("value"), end, rule.kind)


def _end_of(pattern: re.Pattern[str], view: _View, start: int, limit: int) -> int | None:
    match = pattern.match(view.low, start, limit)
    return match.end() if match else None


def _unquoted(view: _View, start: int, end: int) -> int:
    """A value in quotes ends where they close; any other without the punctuation behind it."""
    quote = view.low[start - 1 : start]
    close = view.low.find(quote, start, start + 4 * _REACH) if quote in ("'", '"') else -1
    if close > start:
        end = close
    return start + max(len(view.low[start:end].rstrip(" \\.,-_'")), 1)


def _digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _announced(view: _View, start: int, marks: str = ":=") -> bool:
    return not set(marks).isdisjoint(view.low[max(0, start - 4) : start])


def _identifier(digits: int) -> _Finder:
    """An identifier with at least so many digits near its start."""

    def value(view: _View, start: int, limit: int) -> int | None:
        for pattern in (_GROUPED, _RUN):
            near = pattern.match(view.low, start, min(limit, start + _REACH))
            if near and _digits(near[0]) >= digits:
                return _end_of(_RUN, view, near.end(), limit) if near.end() == start + _REACH else near.end()
        return None

    return value


_NINE = re.compile(r"\d(?:[ ().:/_-]{0,3}\d){8}(?!\d)")


def _social(view: _View, start: int, limit: int) -> int | None:
    """Nine digits however they are separated, or the last four."""
    return _end_of(_NINE, view, start, limit) or _identifier(4)(view, start, limit)


_PHONE = re.compile(
    r"(?:\+?\d{1,3}[ .-]?)?\(?\d{3}\)?[ ./-]{0,2}\d{3}[ .-]?\d{4}(?!\d)"
    r"|\d{3}[ .-]?\d{4}(?!\d)|\+\d{1,3}(?:[ ().-]{1,2}\d{1,5}){2,6}(?!\d)|\d[\d().-]{5,}"
)


def _phone(view: _View, start: int, limit: int) -> int | None:
    return _end_of(_PHONE, view, start, limit)


_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = re.compile(
    r"\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}(?!\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?[ -]?{_MONTH},?[ -]?\d{{2,4}}"
    rf"|{_MONTH} ?\d{{1,2}}(?:st|nd|rd|th)?,? ?\d{{2,4}}"
)


def _birth(view: _View, start: int, limit: int) -> int | None:
    return _end_of(_DATE, view, start, limit) or _identifier(2)(view, start, limit)


_STREET = re.compile(r"\d{1,6}[a-z]?,? +(?:[nsew]{1,2}\.? +)?[^\W\d_]{2,}|p\.? ?o\.? ?box")
_ADDRESS_END = re.compile(r"[;\n\r\t\0\"|<>{}&]|[ ,][a-z_]{2,20}[=:]| - ")


def _to_address_end(view: _View, start: int, limit: int) -> int:
    stop = _ADDRESS_END.search(view.low, start, limit)
    return stop.start() if stop else limit


def _street(view: _View, start: int, limit: int) -> int | None:
    """Only what reads like a street: "address" is a word of networks too."""
    return _to_address_end(view, start, limit) if _STREET.match(view.low, start, limit) else None


def _home(view: _View, start: int, limit: int) -> int | None:
    named = _announced(view, start) and start < limit and view.low[start].isalnum()
    return _to_address_end(view, start, limit) if named else _street(view, start, limit)


_CAPITALISED = re.compile(
    r"[^\W\d_a-z][\w'.%+-]*(?:,? (?:(?:de|da|di|van|von|der|den|la|le|el|al|bin|ben) ){0,2}[^\W\d_a-z][\w'.%+-]*){0,5}"
)
_PLAIN = re.compile(r"[^\W\d_][\w'.%+-]*(?:,? [^\W\d_][\w'.%+-]*){0,2}")
_WORD = re.compile(r"[^\W_]{1,20}")


def _name(view: _View, start: int, limit: int) -> int | None:
    """A name in capitals; one in small letters only after a colon or equals sign."""
    word = _WORD.match(view.low, start, limit)
    if word is None or word[0] in _NEUTRAL:
        return None
    capitalised = _CAPITALISED.match(view.shown, start, limit)
    if capitalised:
        return capitalised.end()
    return _end_of(_PLAIN, view, start, limit) if _announced(view, start) else None


def _patient(view: _View, start: int, limit: int) -> int | None:
    few = 1 if _announced(view, start, ":=#/") else 4
    return _identifier(few)(view, start, limit) or _name(view, start, limit)


def _patients(view: _View, start: int, limit: int) -> int | None:
    """`patients: 12` is a count."""
    return _identifier(5)(view, start, limit) or (_name(view, start, limit) if _announced(view, start) else None)


_MAILBOX = re.compile(r"[\w.%+'-]{1,64}@[\w.-]+")


def _mailbox(view: _View, start: int, limit: int) -> int | None:
    """A label makes a mailbox of a name without a domain's ending, and of one that ends like a unit."""
    return _end_of(_MAILBOX, view, start, limit)


_HOST_RUN = re.compile(r"(?<![\w.-])[a-z0-9][\w.-]*")
_ROOM = re.compile(
    r"(?<![a-z])(?:exam[-_.]?room|(?:exam|room|rm|bed|ward|suite|icu|patient|pt)[-_.]?\d)"
    r"|(?<![a-z])patient-(?!(?:portal|facing|db|data|database|records?|id|name|list|care|api|app|service)(?![a-z]))"
)
_ROOM_WORD = re.compile(r"(?<![a-z])(?:exam|room|rm|bed|ward|suite|patient|pt)(?![a-z])")


def carries_room(host: str) -> bool:
    """Say whether a host's name tells a room or a patient."""
    low = host.lower()
    return bool(_ROOM.search(low) or _ROOM_WORD.search(low))


def _host(view: _View, start: int, limit: int) -> int | None:
    near = _RUN.match(view.low, start, min(limit, start + 4 * _REACH))
    return _end_of(_RUN, view, start, limit) if near and carries_room(near[0]) else None


def _nothing(_view: _View, _start: int, _limit: int) -> int | None:
    return None


_NO = r"(?:ids?|identifier|no|nr|num|numbers?|#)"
_RULES = (
    _Rule("ssn", r"ssns?|ss#|s\.s\.n|social(?:[ _.-]?sec(?:urity)?)?", _social),
    _Rule("mrn", rf"mrns?|m\.r\.n|med(?:ical)?[ _.-]?rec(?:ord)?[ _.-]?{_NO}", _identifier(3)),
    _Rule("mrn", r"medical[ _.-]?records?", _identifier(5)),
    _Rule("patient", rf"(?:patient|pt|chart)(?:'s)?[ _.-]?(?:{_NO}|record|chart|code|ref)", _identifier(1)),
    _Rule("patient", r"(?:patient|pt)(?:'s)?[ _.-]?(?:full|first|last|middle|given|family)?[ _.-]?names?", _name),
    _Rule("patient", r"patients", _patients),
    _Rule("patient", r"patient(?:'s)?", _patient),
    _Rule("name", r"(?:first|last|middle|full|given|family|maiden|guardian|guarantor)[ _.-]?name|surname", _name),
    _Rule("phone", r"(?:tele)?phones?|tel|mobile|cell(?:phone)?|fax|callback", _phone),
    _Rule("dob", r"dob|d\.o\.b|date[ _.-]?of[ _.-]?birth|birth(?:[ _.-]?(?:date|day|year))?|born", _birth),
    _Rule(
        "address",
        r"(?:ip|mac|listen(?:ing)?|bind|memory|network|remote|local|peer|server|hardware|virtual|link|physical"
        r"|source|src|dest(?:ination)?|base|return|v[46])[ _.-]?address(?:es)?",
        _nothing,
    ),
    _Rule("address", r"(?:home|street|mailing|postal|billing|residential|shipping|patient)[ _.-]?address", _home),
    _Rule("address", r"address|lives at|resid(?:es|ing) at", _street),
    _Rule("email", r"e-?mails?(?:[ _.-]?address(?:es)?)?", _mailbox),
    _Rule("account", rf"(?:account|acct|acc)s?[ _.-]?{_NO}|accounts?|acct|iban", _identifier(4)),
    _Rule(
        "insurance",
        rf"insurance|insured|beneficiary|health[ _-]?plan|(?:member|subscriber|payer)[ _.-]?{_NO}"
        r"|(?:policy|group)[ _.-]?(?:no|nr|num|number|#)",
        _identifier(4),
    ),
    _Rule("medicare", r"medicare|medicaid|mbi|hicn", _identifier(4)),
    _Rule(
        "licence",
        rf"(?:driver'?s?'?[ _.-]?)?licen[cs]es?(?:[ _.-]?(?:plate|{_NO}))?|(?:dea|dl)[ _.-]?{_NO}",
        _identifier(5),
    ),
    _Rule(
        "card",
        rf"(?:credit|debit|payment|bank)?[ _-]?card(?:[ _.-]?{_NO})?|visa|master ?card|amex|cc[ _.-]?{_NO}|pan",
        _identifier(12),
    ),
    _Rule("host", r"(?:host|node|computer)(?:[ _]?name)?|fqdn|workstation|machine|device", _host),
)
# A label starts a word: after no letter, or at the hump of camelCase.
_LABEL = re.compile(
    r"(?:(?<![a-zA-Z])|(?-i:(?<=[a-z])(?=[A-Z])))(?=[a-z])(?:"
    + "|".join(f"(?P<r{number}>{rule.label})" for number, rule in enumerate(_RULES))
    + r""")(?:[_ ]?\d(?=["'\\]{0,2}\s?[:=]))?(?![a-z])""",  # ssn1: …
    re.IGNORECASE,
)

# --- forms that are labels themselves

# user@1000.service is a unit, not a mailbox.
_UNITS = frozenset(
    {"service", "socket", "timer", "mount", "target", "slice", "scope", "device", "path", "swap", "automount"}
)
_ISSUER = re.compile(r"4|5[0-8]|6|2[2-7]|3[4-8]|30[0-5]")


def _any(_value: str) -> bool:
    return True


def _is_mailbox(text: str) -> bool:
    return text.rpartition(".")[2] not in _UNITS


def _is_card(text: str) -> bool:
    """Checked by Luhn's sum, so that of the long numbers without a label only one in many is taken for a card."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return bool(_ISSUER.match(text)) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


_MBI = "[ac-hjkmnp-rt-y]"  # the letters of a Medicare Beneficiary Identifier: no s, l, o, i, b, z
_FORMS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("ssn", re.compile(r"(?<![^\W_])(?<!\d[.-])\d{3}-\d{2}-\d{4}(?![^\W_]|-\d)"), _any),
    ("phone", re.compile(r"(?<![\w.-])(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?![\w-])"), _any),
    (
        "medicare",
        re.compile(rf"(?<![\w-])[1-9]{_MBI}(?:{_MBI}|\d)\d-{_MBI}(?:{_MBI}|\d)\d-{_MBI}{{2}}\d\d(?![\w-])"),
        _any,
    ),
    (
        "card",
        re.compile(r"(?<![\w.-])(?:(?:\d{4}[ .-]){3}\d{1,7}|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{14,19})(?![\w-])"),
        _is_card,
    ),
    ("email", re.compile(r"(?<![\w.%+'-])[\w.%+'-]+(?:@|%40)(?:[\w-]+\.)+[^\W\d_]{2,}"), _is_mailbox),
)


def _by_form(view: _View) -> Iterator[Found]:
    for kind, pattern, holds in _FORMS:
        matches = pattern.finditer(view.low)
        yield from (Found(*match.span(), kind) for match in matches if holds(match[0]))
    if _ROOM.search(view.low):
        hosts = _HOST_RUN.finditer(view.low)
        yield from (Found(*host.span(), "host") for host in hosts if _ROOM.search(host[0]))


# --- keys of objects

# A key that ends so speaks of the system and not of a person.
_NEUTRAL_ENDS = frozenset(
    {"count", "total", "db", "database", "table", "portal", "system", "server", "service", "status", "state"}
    | {"enabled", "version", "port", "size", "bytes", "type", "format", "error", "errors", "failed"}
)
# What follows the word patient without being a name.
_NEUTRAL = _NEUTRAL_ENDS | {
    *("app", "api", "management", "monitoring", "monitor", "data", "records", "list", "file", "folder", "backup"),
    *("backups", "export", "import", "sync", "schema", "care", "safety", "intake", "scheduling", "registration"),
    *("information", "visits", "access", "failure"),
}


def _with_digits(digits: int) -> Callable[[str], bool]:
    return lambda value: _digits(value) >= digits


def _several_words(value: str) -> bool:
    return len(value.split()) > 1


def _key(kind: str, pattern: str, accepts: Callable[[str], bool] = _any, inherited: bool = True) -> KeyRule:
    return KeyRule(kind, re.compile(rf"\b(?:{pattern})\b"), accepts, inherited)


_KEY_RULES = (
    _key("ssn", r"ssns?|social security"),
    _key("mrn", r"mrns?|medical record(?: (?:number|no|num|id))?"),
    _key("email", r"e ?mails?"),
    _key("phone", r"(?:tele|cell)?phones?|fax|mobile|cell|tel", _with_digits(4), inherited=False),
    _key("dob", r"dob|date of birth|birth|birth ?(?:date|day|year)|born"),
    _key("address", r"(?:home|street|mailing|postal|billing|residential|shipping|patient) address"),
    _key("address", r"street|(?:zip|post|postal) ?code"),
    _key("insurance", r"insurance|insured|beneficiary|health plan", _with_digits(1)),
    _key("insurance", r"(?:member|subscriber|payer) (?:number|no|num|id)|(?:policy|group) (?:number|no|num)"),
    _key("medicare", r"medicare|medicaid|mbi|hicn", _with_digits(1)),
    _key("card", r"(?:credit|debit|payment) card|(?:card|cc) (?:number|no|num)|pan", _with_digits(4), inherited=False),
    _key("licence", r"licen[cs]e (?:number|no|num|plate|id)|drivers? licen[cs]e|dea (?:number|no)", _with_digits(1)),
    _key("account", r"(?:account|acct) (?:number|no|num|nr|id)|iban"),
    _key("patient", r"patients?|pt (?:id|name|no)"),
    _key("name", r"(?:first|last|middle|full|given|family|maiden) ?name|surname"),
    _key(
        "host", r"(?:host|node|computer|device|machine)(?: ?name| id)?$|fqdn|workstation", carries_room, inherited=False
    ),
    _key("account", r"(?:accounts?|acct)$", _with_digits(4), inherited=False),
    _key("licence", r"licen[cs]e$", _with_digits(5), inherited=False),
    _key("card", r"^card$", _with_digits(12), inherited=False),
    _key("address", r"^address(?:es)?(?: line)?(?: \d)?$", _several_words, inherited=False),
)
