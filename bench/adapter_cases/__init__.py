"""Each adapter beside its bare library: the devices, the hand-written peers and the cases."""
