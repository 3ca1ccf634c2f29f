"""What others made and browsers run: as its manifest says, nothing beside it, and small."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PLACES = [ROOT / "server/ccserver/static/vendor", ROOT / "tests/e2e/vendor"]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.relative_to(ROOT)))
def test_every_vendored_file_is_what_the_manifest_says(place: Path) -> None:
    files = tomllib.loads((place / "vendor.toml").read_text())["file"]
    for each in files:
        assert hashlib.sha256((place / each["name"]).read_bytes()).hexdigest() == each["sha256"], each["name"]
        assert (place / each["licence_file"]).read_text().strip()
        assert each["version"]
        assert each["licence"] in {"0BSD", "MIT", "MPL-2.0"}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.relative_to(ROOT)))
def test_nothing_vendored_is_missing_from_the_manifest(place: Path) -> None:
    files = tomllib.loads((place / "vendor.toml").read_text())["file"]
    known = {each["name"] for each in files} | {each["licence_file"] for each in files} | {"vendor.toml"}
    assert {path.name for path in place.iterdir()} == known


def test_no_script_style_or_template_loads_or_leads_elsewhere() -> None:
    own = [path for path in (ROOT / "server/ccserver/static").iterdir() if path.suffix in (".js", ".css")]
    templates = list((ROOT / "server/ccserver/templates").iterdir())
    foreign = re.compile(r"""(?:src|href|action|hx-get|sse-connect)=["']?(?:https?:)?//|url\(|@import|fetch\(""")
    assert [path.name for path in [*own, *templates] if foreign.search(path.read_text())] == []
