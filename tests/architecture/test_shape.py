"""The shape of the code: a function fits a screen, names are the field's, README knows every folder."""

import ast
import re

from tests.architecture.source import ROOT, functions, modules

SCREEN = 60  # lines, docstring included
FOLDERS = {"queries", "agent", "api", "pages", "checks", "commands", "resolvers"}  # listed as folders
VAGUE = {"utils", "util", "helpers", "common", "base", "manager", "service", "handler", "handlers", "misc", "core"}


def test_a_function_fits_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{function.name} {(function.end_lineno or 0) - function.lineno + 1}"
        for path in modules()
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > SCREEN
    ]
    assert long == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [str(path.relative_to(ROOT)) for path in modules() if path.stem in VAGUE] == []


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in modules() if ast.get_docstring(ast.parse(path.read_text())) is None] == []


def test_readme_lists_every_module_by_its_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z0-9_]+", readme))
    missing = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.stem != "__init__" and path.stem not in words and path.parent.name not in FOLDERS
    ]
    assert missing == []
