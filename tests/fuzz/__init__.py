"""Fuzzing: decoders that face a network or a file get mutated bytes; only foreseen errors may come out."""
