"""Requests that schemathesis makes up from the server's description of itself; run by test_tiles_safety.py.

For every operation some requests as the description allows and some as it does not: no answer may be a fault
of the server, have a status that is not declared, or another media type than declared.
"""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tiles.app import create_app
from tiles.settings import from_environment

EXAMPLES = 20
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(from_environment(maps=(), warm=False)))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_operation(case):
    case.call_and_validate(checks=[not_a_server_error, status_code_conformance, content_type_conformance])
