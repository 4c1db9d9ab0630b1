"""facepipe: from folders of photos to clean people and a searchable face gallery.

The public door: `open_dataset` for the Parquet tables a run wrote, `open_index` for a
gallery. Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "open_dataset", "open_index"]

if TYPE_CHECKING:
    from facepipe.index import open_index
    from facepipe.shards import open_dataset


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "open_dataset":
        from facepipe.shards import open_dataset

        return open_dataset
    if name == "open_index":
        from facepipe.index import open_index

        return open_index
    raise AttributeError(f"module 'facepipe' has no attribute {name!r}")
