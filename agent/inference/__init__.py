"""Model packages: manifest, gate, and from picture or window to result."""
