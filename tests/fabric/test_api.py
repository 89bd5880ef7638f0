"""Requests made from the API's own description, against a real gateway: whatever is sent, the answer is one that is
described, and never a crash.
"""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from edif.gateway.app import DESCRIBED
from edif.gateway.description import openapi
from tests.sizes import SIZES
from tests.support.apart import gateway_alone
from tests.support.fabric import Fabric

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
description = schemathesis.openapi.from_dict(openapi(DESCRIBED))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """A gateway with a user, without agents."""
    data = tmp_path_factory.mktemp("api") / "data"
    unstarted = Fabric(None, data, "", {})  # type: ignore[arg-type]  # only its command line is used
    unstarted.edif("users", "add", "olga", "--role", "operator")
    rates = {f"EDIF_{each}_PER_S": "100000" for each in ("STATUS", "REQUESTS", "REFUSALS")}
    with gateway_alone(data, "--demo", EDIF_MIN_FREE_BYTES="0", **rates) as running:
        yield running


@pytest.fixture(scope="module")
def key(gateway: Fabric) -> str:
    return str(gateway.edif("keys", "create", "--user", "olga")["key"])


@description.parametrize()
@settings(
    max_examples=SIZES.api_examples,
    derandomize=SIZES.derandomize,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_described(case: schemathesis.Case, gateway: Fabric, key: str) -> None:
    worker = "/worker/" in case.operation.path
    secret = (gateway.data / "worker.token").read_text() if worker else key
    for headers in ({"authorization": f"Bearer {secret}"}, {}):
        case.call_and_validate(base_url=gateway.url, headers=headers, checks=CHECKS, timeout=60)
