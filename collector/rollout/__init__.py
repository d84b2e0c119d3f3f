"""Model packages for nodes, and how a version goes to them stage by stage."""
