"""Backup, check and restore of a store: its day files, marks and `state.db`."""
