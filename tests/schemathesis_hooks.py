"""What schemathesis does before each call of a platform admin, who must always say which partner is meant."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: dict[str, Any]) -> None:
    """Name the partner that is there: that one is named is no part of the document, as others need not."""
    case.query["partner"] = "acme"
