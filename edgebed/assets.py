"""The shipped model packages and example configs; `wire.shipped` finds them."""

from __future__ import annotations

from wire.shipped import folder

__all__ = ["folder"]
