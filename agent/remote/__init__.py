"""Changes of a running agent: what may change, whether it works, and what a controller may request."""
