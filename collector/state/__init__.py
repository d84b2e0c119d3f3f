"""`state.db`: what the collector keeps beside telemetry, in one SQLite file with one schema version."""
