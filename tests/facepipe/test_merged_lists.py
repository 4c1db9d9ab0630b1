"""List files of several shards, merged into what one shard would have."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from facepipe import merged_lists
from facepipe.index_manifest import CodeKind
from facepipe.merged_lists import Lists, merge_lists
from tests.facepipe.made_index import code_bytes, people, template

COUNT = 1200


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pqfs"])
@pytest.mark.parametrize("dim", [16, 20])
@pytest.mark.parametrize("ends", [[], [700], [1, 2, 40, 1199], list(range(0, 1200, 30))])
@pytest.mark.parametrize("at_a_time", [1, 100, 65536])
def test_merged_files_are_that_of_one_shard(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: CodeKind,
    dim: int,
    ends: list[int],
    at_a_time: int,
) -> None:
    monkeypatch.setattr(merged_lists, "MERGED_ROWS", at_a_time)
    vectors, (_, trained) = people(100, 12, dim), template(kind, dim)
    shards, first = [], 0
    for number, part in enumerate(np.split(vectors, ends)):
        path = tmp_path / str(number)
        path.write_bytes(code_bytes(part, kind))
        shards.append(Lists.of(path, trained, len(part), first))
        first += len(part)
    merged = io.BytesIO()
    assert merge_lists(shards, trained, merged) == COUNT
    assert merged.getvalue() == code_bytes(vectors, kind)
