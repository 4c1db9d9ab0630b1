"""What a gallery is asked to hold to: its threshold, its memory, its recall."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from facepipe.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Return the bytes of a size as people write it: 2GB, 1.5 TB, 500MB, 2GiB, 2Gi, 4096.

    k, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024; upper and lower case are the same.
    Raises UsageError for anything else, and for less than one byte.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no size in bytes: write one like 2GB, 500MB or 2GiB")
    number, unit = found[1], (found[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    size = int(float(number) * base ** _POWER.get(unit[:1], 0))
    if size < 1:
        raise UsageError(f"{text!r} is less than one byte: write a size like 2GB")
    return size


class IndexSettings(BaseModel):
    """What the threshold of a gallery promises, and how its vectors are held."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fpir: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="false positive identification rate (ISO/IEC 19795-1): the chance that the "
        "search with one face of a stranger puts anybody of the gallery above the threshold; "
        "per search, not per comparison (FMR), which is smaller by the number of faces",
    )
    seed: int = Field(
        0, ge=0, description="of the samples for the threshold, the template and the recall"
    )
    kind: Literal["auto", "flat", "ivf_sq8", "ivf_pqfs"] = Field(
        "auto",
        description="the codes: flat is exact; ivf_sq8 and ivf_pqfs search some lists of 1 byte "
        "or 1/4 to 1/8 byte a dimension and score the best hits exactly; auto: by the number of "
        "faces and memory_budget",
    )
    recall: float = Field(
        0.99,
        ge=0.5,
        lt=1,
        description="share of the true matches among the 10 best (cosine of 0.40 or more) that "
        "a search of codes must find; nprobe is calibrated to it",
    )
    memory_budget: str | None = Field(
        None,
        description="memory that a search may keep busy, like 2GB or 500MiB; by default what is "
        "fastest is taken",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="what trains the template and assigns vectors to lists"
    )
    compact_at: float = Field(
        0.1, gt=0, le=1, description="share of deleted rows at which compact rewrites a shard"
    )

    @field_validator("memory_budget")
    @classmethod
    def _is_a_size(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                parse_bytes(text)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return text

    @property
    def memory_budget_bytes(self) -> int | None:
        """Return memory_budget in bytes."""
        return None if self.memory_budget is None else parse_bytes(self.memory_budget)
