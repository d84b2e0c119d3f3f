"""Fault drills: an installation is harmed in every way at hand, and its ledger has to come out exact."""
