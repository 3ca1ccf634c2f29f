"""Our own source, read as syntax trees by the architecture tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "shared" / "ccshared", ROOT / "server" / "ccserver", ROOT / "agent" / "ccagent")
RUNNERS = frozenset({"fetch", "fetchrow", "fetchval", "execute", "executemany"})


def modules() -> list[Path]:
    """Every Python module of the three distributions."""
    return sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def database_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of asyncpg's running methods on something named conn."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in RUNNERS:
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if name == "conn":
            yield node


def literal(call: ast.Call) -> str | None:
    """The statement a call runs, when it is a literal."""
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
