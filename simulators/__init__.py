"""The device side of every protocol, seeded faults and load: all of edgebed without hardware."""
