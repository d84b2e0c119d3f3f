"""Model packages: manifest, gate, and the way from a picture or window to a result."""
