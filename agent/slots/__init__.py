"""Versions of models: where they are kept, and how one takes the place of another in a slot."""
