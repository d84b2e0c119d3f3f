"""`edgebed pilot report`: made from a store or by a collector, stated in plain text, recomputed."""
