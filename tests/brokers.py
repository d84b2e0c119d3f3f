"""The brokers of a long test: `make test` runs it with nats, `make test-long` with mosquitto."""

from __future__ import annotations

import pytest

LONG_TEST_KINDS = ["nats", pytest.param("mosquitto", marks=pytest.mark.slow)]
