"""Fault drills: cause every known fault in an installation, then check that its ledger is exact."""
