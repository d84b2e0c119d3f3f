"""Fences of a pilot on its device: limits of CPU, memory, uplink and inferences, and what was used a day."""
