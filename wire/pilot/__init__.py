"""The plan of a pilot: its question, KPIs and schedule, frozen before the trial starts."""
