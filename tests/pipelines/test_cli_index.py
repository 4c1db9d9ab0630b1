"""`facepipe index` as people type it: what it prints, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from facepipe import open_dataset, open_index
from facepipe.index_settings import IndexSettings
from pipelines.cli import app
from pipelines.index import build_index
from tests.pipelines.made_gallery import Face, Made, contents, people

WHO = Face(person=3, shot=1)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(folder=tmp_path / "dataset", faces=people(20, 4))
    made.write()
    return made


def facepipe(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["index", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


def as_json(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["index", *map(str, args), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def built(made: Made, tmp_path: Path) -> Path:
    """Build an index without starting a worker."""
    build_index(open_dataset(made.folder), str(tmp_path / "index"), IndexSettings())
    return tmp_path / "index"


def test_the_life_of_an_index(made: Made, tmp_path: Path) -> None:
    data, index = made.folder, tmp_path / "index"
    planned = facepipe("build", data, "--out", index, "--dry-run")
    assert planned.startswith(f"80 of 80 faces would go into {index}:\n  80 faces are searched")
    assert not index.exists()
    built = facepipe("build", data, "--out", index, "-q")
    assert built.startswith(f"80 of 80 faces in {index}; threshold 0.")
    assert facepipe("build", data, "--out", index).startswith("nothing to do: 80 of 80 faces")

    made.faces += people(5, 2, first=30)
    made.write()
    added = facepipe("add", index, "--from", data, "-q")
    assert added.startswith(f"10 faces added, 0 removed: 90 in {index}; threshold 0.")
    assert facepipe("add", index, "--from", data).startswith("nothing to do: 0 faces added")

    counted = facepipe("delete", index, "--person", "person-003", "--dry-run")
    assert counted == f"4 faces of 4 photos would be deleted from {index}\n"
    deleted = facepipe("delete", index, "--person", "person-003", "-q")
    assert deleted == (
        f"4 faces of 4 photos deleted from {index}, 86 are left; off the disk with facepipe index "
        f"compact {index} --all\n"
    )
    proof = ("verify", index, "--absent", "person-003", "--vectors-of", data)
    assert "traces in 2 files" in facepipe(*proof, code=4)
    assert facepipe("compact", index, "--keep-versions", "--dry-run") == (
        f"2 shards would be rewritten, 4 rows would be erased; 86 faces in {index}\n"
    )
    assert facepipe("compact", index, "--all", "-q") == (
        f"2 shards rewritten, 4 rows erased; 86 faces in {index}\n"
    )
    assert "4 face ids and 4 vectors: nothing found" in facepipe(*proof)
    assert "4 files of 1 versions checked" in facepipe("verify", index, "--full")
    assert facepipe("add", index, "--from", data).startswith("nothing to do: 0 faces added")
    assert facepipe("add", index, "--from", data, "--restore", "person-003", "-q").startswith(
        f"4 faces added, 0 removed: 90 in {index}"
    )


def test_versions_wait_are_published_and_rolled_back(made: Made, tmp_path: Path) -> None:
    index = built(made, tmp_path)
    first = open_index(index).version
    waiting = facepipe(
        *("build", made.folder, "--out", index, "--set", "index.fpir=0.1", "--no-publish", "-q")
    )
    assert f"is not in force yet: facepipe index publish {index}" in waiting
    assert open_index(index).version == first
    assert facepipe("publish", index, "-q").endswith(f"is in force in {index}: 80 faces\n")
    assert open_index(index).version != first
    listed = facepipe("versions", index).splitlines()
    assert [line.split()[1] for line in listed] == ["state", "in", "before"]
    assert facepipe("rollback", index, "-q").startswith(first[:12])
    states = {row["version"]: row["state"] for row in as_json("versions", index)}
    assert states[first] == "in force" and sorted(states.values()) == ["in force", "waits"]
    deleted = facepipe("delete", index, "--person", "person-003", "--no-publish", "-q")
    assert deleted.startswith(f"4 faces of 4 photos will be deleted from {index}, 76 will be left")
    assert f"is not in force yet: facepipe index publish {index} " in deleted
    version = deleted.split()[-1]
    assert facepipe("publish", index, version).endswith("76 faces\n")


def test_a_budget_chooses_codes_and_their_recall_is_said(made: Made, tmp_path: Path) -> None:
    index = tmp_path / "index"
    wanted = ("--kind", "ivf_sq8", "--recall", "0.9", "--memory-budget", "1GB")
    said = facepipe("build", made.folder, "--out", index, *wanted, "--workers", "1", "-q")
    assert "SQ8: finds " in said and "of the true matches" in said
    record = open_index(index).record
    assert record.recall is not None and record.recall.target == 0.9
    assert any("1 GB allowed" in reason for reason in record.note)


def test_another_model_is_migrated_to(made: Made, tmp_path: Path) -> None:
    index = built(made, tmp_path)
    made.model = "second"
    made.write()
    assert "facepipe index migrate" in facepipe("add", index, "--from", made.folder, code=1)
    said = facepipe("migrate", index, "--from", made.folder, "-q")
    assert said.startswith(f"80 of 80 faces in {index}, of model {made.model_id[:12]}; of 80 sampl")
    assert facepipe("migrate", index, "--from", made.folder).startswith("nothing to do")


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (("build", "{data}", "--out", "{tmp}/other"), {"version", "built", "published", "totals"}),
        (("build", "{data}", "--out", "{tmp}/other", "--dry-run"), {"faces", "kind", "reasons"}),
        (("add", "{index}", "--from", "{data}"), {"added", "removed", "built"}),
        (("delete", "{index}", "--face", WHO.face_id), {"removed", "photos", "version"}),
        (("delete", "{index}", "--photo", WHO.uri, "--dry-run"), {"removed", "photos"}),
        (("compact", "{index}"), {"rewritten", "erased", "dead", "version"}),
        (("verify", "{index}"), {"problems", "files", "bytes", "rows", "unknown"}),
        (("verify", "{index}", "--absent", "nobody at all"), {"found", "files", "bytes"}),
        (("migrate", "{index}", "--from", "{data}"), {"built", "before"}),
    ],
)
def test_json_everywhere(made: Made, tmp_path: Path, args: tuple[str, ...], keys: set[str]) -> None:
    index = built(made, tmp_path)
    given = [a.format(data=made.folder, index=index, tmp=tmp_path) for a in args]
    assert keys <= as_json(*given).keys()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("add", "{tmp}/none", "--from", "{data}"), 1, "no index in"),
        (("delete", "{index}"), 2, "nothing to delete"),
        (("delete", "{index}", "--person", "nobody"), 2, "'nobody' is not in"),
        (("rollback", "{index}"), 2, "is the first"),
        (("publish", "{index}"), 2, "0 versions"),
        (("publish", "{index}", "abc"), 2, "no version starts"),
        (("build", "{data}", "--out", "{data}"), 2, "is the dataset itself"),
        (("build", "{data}", "--memory-budget", "much"), 2, "no size"),
        (("build", "{data}", "--memory-budget", "1kB"), 2, "memory budget"),
        (("build", "{data}", "--kind", "hnsw"), 2, "hnsw"),
        (("verify", "{tmp}/none"), 1, "no index in"),
        (("verify", "{index}", "--absent", "person-001"), 4, "traces are left"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(
    made: Made, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    index = built(made, tmp_path)
    before = contents(index)
    given = [a.format(data=made.folder, index=index, tmp=tmp_path) for a in args]
    assert said in facepipe(*given, code=code)
    assert contents(index) == before


def test_what_cannot_be_read_is_said_in_a_line(made: Made, tmp_path: Path) -> None:
    index = built(made, tmp_path)
    (index / "CURRENT").unlink()
    (index / "CURRENT").mkdir()
    said = facepipe("delete", index, "--person", "person-003", code=1)
    assert said.startswith(f"facepipe: {index}/CURRENT: Is a directory: ")


def test_damage_is_said_with_what_to_do(made: Made, tmp_path: Path) -> None:
    index = built(made, tmp_path)
    path = next(index.rglob("vectors.f16"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = facepipe("verify", index, code=1)
    assert "does not match its checksum" in said and "facepipe index rollback" in said
    assert as_json("verify", index, code=1)["problems"]
