"""Headwater: raw text to a base model with its evidence, from one recipe file.

from headwater import load, plan, run

recipe = load("demo", "train.budget=60s")
print(plan(recipe))
results = run(recipe)
print(results.report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "plan", "run"]

if TYPE_CHECKING:
    from headwater.flow import plan, run
    from headwater.recipe import load


def __getattr__(name: str) -> Any:
    """Import the three functions when they are first used, so that `import headwater` stays instant."""
    if name == "load":
        from headwater.recipe import load

        return load
    if name in ("plan", "run"):
        from headwater import flow

        return getattr(flow, name)
    raise AttributeError(f"module 'headwater' has no attribute {name!r}")
