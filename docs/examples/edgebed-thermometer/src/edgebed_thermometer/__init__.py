"""An edgebed adapter for a thermometer, as a package of its own."""
