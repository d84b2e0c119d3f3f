"""`make evidence`: whether the intervals of pilots hold the truth, setting by setting."""
