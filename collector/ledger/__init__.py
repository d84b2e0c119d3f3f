"""The account of every message: taken, stored, declared lost, missing."""
