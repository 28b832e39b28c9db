"""The protocol's request, for contracts that are about what a request has started."""

from tests.protocol.conftest import ask  # noqa: F401 - a fixture
