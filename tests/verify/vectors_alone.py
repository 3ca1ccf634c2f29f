"""Runs in an empty Python: holds the verifier, alone, to the vectors of the evidence log (JSON on standard input)."""

import json
import sys

sys.path.insert(0, sys.argv[1])
import verify  # type: ignore[import-not-found]

vectors = json.load(sys.stdin)
failed = []


def check(name, good):  # type: ignore[no-untyped-def]
    if not good:
        failed.append(name)


def text_of(case):  # type: ignore[no-untyped-def]
    if case.get("text") is not None:
        return case["text"].encode("utf-8", "surrogatepass")
    head, one, two, tail, count = case["repeat"]
    return (head + one * count + two * count + tail).encode()


def reads(data):  # type: ignore[no-untyped-def]
    try:
        verify.read_canonical(data, verify.MAX_PAYLOAD)
    except verify.BrokenError:
        return False
    return True


for case in vectors["payloads_accepted"]:
    check(("accepted", str(case)[:80]), reads(text_of(case)))
for case in vectors["payloads_refused"]:
    check(("refused", str(case)[:80]), not reads(text_of(case)))
for case in vectors["signatures"]:
    key, signature = bytes.fromhex(case["key"]), bytes.fromhex(case["signature"])
    check(("signature", case), verify.ed25519_verify(key, case["message"].encode(), signature) == case["valid"])
for case in vectors["keys_refused"]:
    key = case if isinstance(case, str) else case.get("key", case.get("public_key"))
    check(("key", case), not verify.is_key(bytes.fromhex(key)))
for log in vectors["logs"]:
    tree = verify.Tree()
    payloads = [payload.encode() for payload in log["payloads"]]
    leaves = [verify.leaf_hash(payload) for payload in payloads]
    check("leaves", [leaf.hex() for leaf in leaves] == log["leaves"])
    tree.extend(leaves)
    check("root", tree.root().hex() == log["root"])

print(failed or "agreed")
sys.exit(bool(failed))
