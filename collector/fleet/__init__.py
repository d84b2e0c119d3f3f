"""The present state of every node, and what is wrong with it."""
