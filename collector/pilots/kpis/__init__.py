"""The KPIs of a plan, period by period, from stored rows. What counts as known: docs/pilots.md#kpis."""
