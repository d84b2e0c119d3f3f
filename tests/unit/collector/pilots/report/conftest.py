"""A plant with an empty store."""

from tests.unit.collector.pilots.kpis.conftest import plant

__all__ = ["plant"]
