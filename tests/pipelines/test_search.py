"""Searching a gallery with photos: several at once, some of its faces, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from facepipe import open_dataset, open_index
from facepipe.config import Settings
from facepipe.errors import UsageError
from facepipe.index_filter import parse_filter
from facepipe.index_settings import IndexSettings
from facepipe.packs import find_pack
from pipelines import cli_search, search
from pipelines.curate import Request, run
from pipelines.index import build_index
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from pipelines.search import search_photos
from tests import made

PERSONS, SHOTS = 3, 3
LABELLED = Settings.model_validate({"sources": {"labels": "folder"}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make photos, a pack, an index of them, and photos to search with."""
    root = tmp_path_factory.mktemp("made")
    made.people(root / "photos", PERSONS, SHOTS)
    request = Request(
        steps=("detect", "embed"),
        out=str(root / "dataset"),
        settings=LABELLED,
        pack=find_pack(str(made.pack(root / "pack"))),
        sources=[str(root / "photos")],
    )
    with LocalRunner(1) as runner:
        run(request, runner, Progress(quiet=True))
    build_index(open_dataset(root / "dataset"), str(root / "index"), IndexSettings())
    queries = root / "queries"
    made.save(queries / "a-two.png", made.photo([(2, 77, 80, 100), (0, 78, 220, 160)]))
    made.save(queries / "b-none.png", made.photo([]))
    (queries / "c-broken.png").write_bytes(b"no picture")
    made.save(queries / "d-one.png", made.photo([(1, 9, 160, 160)]))
    return root


def searched(folder: Path, photos: list[Path], k: int = 3, **how: Any) -> list[dict[str, Any]]:
    gallery, pack = open_index(folder / "index"), find_pack(str(folder / "pack"))
    return search_photos(gallery, pack, LABELLED, [str(p) for p in photos], k, **how)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_several_photos_are_answered_as_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    photos = sorted((folder / "queries").iterdir())
    alone = [result for photo in photos for result in searched(folder, [photo])]
    monkeypatch.setattr(search, "BATCH_PHOTOS", batch)
    together = searched(folder, [folder / "queries"])
    assert together == alone
    assert [len(result["faces"]) for result in together] == [2, 0, 0, 1]
    found = [[face["identity_id"] for face in result["faces"]] for result in together]
    assert sorted(found[0]) == ["person-0", "person-2"]
    assert found[3] == ["person-1"]


def test_only_faces_that_fit_are_found(folder: Path) -> None:
    photo = [folder / "queries" / "a-two.png"]
    (result,) = searched(folder, photo, k=9, where=parse_filter(["identity_id=person-2"]))
    for face in result["faces"]:
        assert len(face["hits"]) == SHOTS
        assert {hit["identity_id"] for hit in face["hits"]} == {"person-2"}
    everyone = searched(folder, photo, k=PERSONS * SHOTS)[0]["faces"]
    for few, all_of_them in zip(result["faces"], everyone, strict=True):
        scores = {hit["face_id"]: hit["score"] for hit in all_of_them["hits"]}
        assert {hit["face_id"]: hit["score"] for hit in few["hits"]}.items() <= scores.items()
    (result,) = searched(folder, photo, where=parse_filter(["uri~nowhere"]))
    assert [face["hits"] for face in result["faces"]] == [[], []]
    assert {face["verdict"][:6] for face in result["faces"]} == {"nobody"}
    with pytest.raises(UsageError, match="no such column"):
        searched(folder, photo, where=parse_filter(["year=1990"]))


def test_the_command_line_prints_a_table_or_json(folder: Path) -> None:
    app = typer.Typer()
    cli_search.register(app)
    args = [str(folder / "index"), str(folder / "queries"), "--models", str(folder / "pack")]
    args += ["-k", "2", "--where", "identity_id!=person-0", "--where", "uri~shot-1"]
    args += ["--threads", "1", "--nprobe", "4", "--check", "sizes"]
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 0, shown.output
    assert "a-two.png: 2 faces" in shown.stdout
    assert "person-2/shot-1.png" in shown.stdout
    assert "person-0/" not in shown.stdout
    printed = CliRunner().invoke(app, [*args, "--json"])
    results = json.loads(printed.stdout)
    where = parse_filter(["identity_id!=person-0", "uri~shot-1"])
    assert results == searched(folder, [folder / "queries"], k=2, where=where)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--where", "identity_id"], "is no condition"),
        (["--where", "age>3"], "no such column"),
        (["--check", "nothing"], "nothing"),
        (["--nprobe", "0"], "or equal to 1"),
    ],
)
def test_wrong_options_are_refused(folder: Path, option: list[str], message: str) -> None:
    app = typer.Typer()
    cli_search.register(app)
    args = [str(folder / "index"), str(folder / "queries"), "--models", str(folder / "pack")]
    refused = CliRunner().invoke(app, [*args, *option])
    assert refused.exit_code == 2
    assert message in refused.output
