"""An automated vehicle that publishes VDA 5050."""
