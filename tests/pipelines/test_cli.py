"""The command line as a person meets it: help, JSON, exit codes, messages."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facepipe.shards import Dataset

ROOT = Path(__file__).parents[2]


def facepipe(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **env},
    )


COMMANDS = [
    (),
    ("plan",),
    ("curate",),
    ("detect",),
    ("embed",),
    ("dedup",),
    ("clean",),
    ("undo",),
    ("overlap",),
    ("export",),
    ("index",),
    ("index", "build"),
    ("index", "search"),
    ("report",),
    ("why",),
    ("verify",),
    ("evaluate",),
    ("config",),
    ("doctor",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches(command: tuple[str, ...]) -> None:
    result = facepipe(*command, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert "Usage:" in result.stdout and len(result.stdout) > 200


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; import pipelines.cli\n"
        "heavy = {'cv2', 'numpy', 'pyarrow', 'onnxruntime', 'faiss', 'PIL', 'pydantic', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert out.stdout.strip() == "[]"


def test_curate_prints_json_and_makes_gallery_and_report(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    args = ("curate", photos, "--labels", "folder", "--out", out, "--models", made_pack, "--json")
    first = facepipe(*args)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert [s["step"].split("-")[0] for s in result["steps"]] == [
        "detect",
        "embed",
        "dedup",
        "by_label",
        "cluster",
        "clean",
    ]
    assert (out / "report.html").is_file() and (out / "index" / "CURRENT").is_file()
    assert "\x1b" not in first.stderr and "detect:" in first.stderr
    again = json.loads(facepipe(*args).stdout)
    assert all(s["shards_run"] == 0 for s in again["steps"])
    quiet = facepipe(*args[:-1], "--quiet")
    assert quiet.stderr == "" and quiet.stdout.startswith("nothing to do")
    search = facepipe(
        "index",
        "search",
        out / "index",
        photos / "person-2/shot-4.png",
        "--models",
        made_pack,
        "--json",
    )
    assert search.returncode == 0, search.stderr
    assert "person-2" in search.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            ("curate", "/nowhere/photos", "--out", "{tmp}/ds", "--models", "{pack}"),
            2,
            "/nowhere/photos does not exist",
        ),
        (("curate", "{photos}", "--out", "{tmp}/ds", "--models", "/nowhere"), 2, "not a folder"),
        (
            (
                "curate",
                "{photos}",
                "--out",
                "{tmp}/ds",
                "--models",
                "{pack}",
                "--set",
                "detect.sise=3",
            ),
            2,
            "is not a setting",
        ),
        (
            (
                "curate",
                "{photos}",
                "--out",
                "{tmp}/ds",
                "--models",
                "{pack}",
                "--config",
                "/no.yaml",
            ),
            2,
            "does not exist",
        ),
        (
            (
                "curate",
                "{photos}",
                "--out",
                "{tmp}/ds",
                "--models",
                "{pack}",
                "--set",
                "models.device=cuda",
            ),
            2,
            "models.device=cpu",
        ),
        (("embed", "--out", "{tmp}/ds", "--models", "{pack}"), 1, "facepipe curate"),
        (("report", "{tmp}"), 1, "no dataset"),
        (("why", "{dataset}", "ffffffffff"), 2, "no face"),
        (("evaluate", "{dataset}", "--pairs", "/no.txt"), 2, "does not exist"),
        (("index", "search", "{tmp}/none", "x.jpg", "--models", "{pack}"), 1, "index"),
        (("curate",), 2, "Missing"),
        (("curate", "{photos}", "--out", "{tmp}/ds", "--engine", "spark"), 2, "spark"),
    ],
)
def test_errors_name_the_thing_and_have_their_exit_code(
    tmp_path: Path,
    photos: Path,
    made_pack: Path,
    dataset: Dataset,
    args: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    places = {"tmp": tmp_path, "photos": photos, "pack": made_pack, "dataset": dataset.uri}
    result = facepipe(*(a.format(**places) for a in args))
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert not (tmp_path / "ds").exists()


def test_too_many_broken_photos_end_with_3_and_a_whole_dataset(
    tmp_path: Path, made_pack: Path
) -> None:
    for n in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{n}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(40 + n))
    result = facepipe("curate", tmp_path / "in", "--out", tmp_path / "ds", "--models", made_pack)
    assert result.returncode == 3
    assert "100% of the image files" in result.stderr
    assert (tmp_path / "ds" / "report.html").is_file()


def test_why_shows_the_chain(dataset: Dataset) -> None:
    rows = dataset.table("decisions", ["face_id", "reason"]).to_pylist()
    face = next(r["face_id"] for r in rows if r["reason"] == "other_identity")
    text = facepipe("why", dataset.uri, face[:40]).stdout
    assert "detect    ok: score" in text and "relabel: other identity" in text
    (chain,) = json.loads(facepipe("why", dataset.uri, face, "--json").stdout)
    assert [s["step"] for s in chain["chain"]] == ["dedup", "clean"]
    assert chain["chain"][1]["similarity"] is not None


def test_verify_and_dry_run(
    tmp_path: Path, photos: Path, made_pack: Path, dataset: Dataset
) -> None:
    good = facepipe("verify", dataset.uri, "--json")
    assert good.returncode == 0 and json.loads(good.stdout)["problems"] == []
    dry = facepipe("curate", photos, "--out", tmp_path / "ds", "--models", made_pack, "--dry-run")
    assert dry.returncode == 0 and dry.stdout.startswith("detect: ")
    assert not (tmp_path / "ds").exists()


def test_config_prints_a_file_that_loads(tmp_path: Path) -> None:
    text = facepipe("config", "--set", "detect.size_px=320").stdout
    (tmp_path / "f.yaml").write_text(text)
    again = facepipe("config", "--config", tmp_path / "f.yaml").stdout
    assert again == text and "size_px: 320" in text


def test_doctor_names_the_models_and_a_missing_pack(made_pack: Path) -> None:
    good = facepipe("doctor", "--models", made_pack, "--json")
    assert good.returncode == 0, good.stdout
    checks = {c["name"]: c for c in json.loads(good.stdout)}
    assert [(f["file"], f["bytes"], f["sha256"]) for f in checks["models"]["files"]] == [
        (name, len(data), hashlib.sha256(data).hexdigest())
        for name in ("det_made.onnx", "made_recogniser.onnx")
        for data in [(made_pack / name).read_bytes()]
    ]
    assert (
        checks["builtin"]["optional"] and "builtin-int8: Apache-2.0" in checks["licence"]["detail"]
    )
    bad = facepipe("doctor", "--models", "/nowhere/pack", "--json")
    assert bad.returncode == 4
    checks = {c["name"]: c for c in json.loads(bad.stdout)}
    assert not checks["models"]["ok"] and "/nowhere/pack" in checks["models"]["detail"]


def test_version() -> None:
    from facepipe import __version__

    assert facepipe("--version").stdout == f"facepipe {__version__}\n"
