"""The pilot of a node: takes its frozen plan, checks who signed it, and states it in the custody chain."""
