"""The first steps to a pilot: a simulated site to try one on, and the draft of a plan for a running node."""
