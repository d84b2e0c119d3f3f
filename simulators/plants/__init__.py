"""Models of the world without a protocol: robots, vehicles, patients, streets, air."""
