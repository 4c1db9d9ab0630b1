"""Evaluations of made faces: the same numbers by every way in, and from the vectors by hand."""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from facepipe.config import load
from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import ModelNotFound, SourceNotFound, UsageError
from facepipe.evaluate import fold_accuracy, tar_at_far
from facepipe.models import ModelSettings
from facepipe.packs import find_pack
from facepipe.shards import open_dataset
from pipelines.evaluate import Evaluation, Request, evaluate, evaluate_pairs, outline
from pipelines.evaluate_page import page, pictures
from pipelines.evaluate_sources import Picture, open_source
from pipelines.evaluate_text import format_evaluation
from pipelines.progress import Progress
from tests import made
from tests.pipelines.conftest import curated

PEOPLE, SHOTS, FOLDS, PAIRS = 24, 3, 4, 15

Pixels = npt.NDArray[np.uint8]


def name(person: int, shot: int) -> str:
    return f"P{person:02d}_{shot + 1:04d}"


def crop(person: int, shot: int) -> Pixels:
    """Return a made face as an aligned crop."""
    return np.asarray(cv2.resize(made.face_square(person, shot), (112, 112)), np.uint8)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder per person with aligned crops, one of them no picture."""
    folder = tmp_path_factory.mktemp("crops")
    for person in range(PEOPLE):
        for shot in range(SHOTS if person < PEOPLE - 6 else 1):  # six people of one picture
            made.save(folder / f"P{person:02d}" / f"{name(person, shot)}.png", crop(person, shot))
    (folder / "P00" / f"{name(0, 2)}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def made_pairs() -> list[tuple[tuple[int, int], tuple[int, int], bool]]:
    """Return folds of matched and mismatched pairs, as pairs.txt orders them."""
    rng = np.random.default_rng(17)
    listed: list[tuple[tuple[int, int], tuple[int, int], bool]] = []
    for _ in range(FOLDS):
        for n in range(PAIRS):
            person = int(rng.integers(PEOPLE - 6))
            listed.append(((person, n % 2), (person, 2), True))
        for _ in range(PAIRS):
            a, b = rng.choice(PEOPLE - 6, 2, replace=False).tolist()
            listed.append(((a, 0), (b, int(rng.integers(3))), False))
    return listed


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the made pairs in LFW's format."""
    lines = [f"{FOLDS}\t{PAIRS}"]
    for (a, i), (b, j), same in made_pairs():
        who = f"P{a:02d}\t{i + 1}\t"
        lines.append(who + (f"{j + 1}" if same else f"P{b:02d}\t{j + 1}"))
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def request_(crops: Path, pairs_file: Path, made_pack: Path) -> Request:
    return Request(
        data=str(crops),
        packs=(("made", find_pack(str(made_pack))),),
        settings=load(None, []),
        pairs=str(pairs_file),
        samples=100,
    )


def run(request: Request, **changes: Any) -> Evaluation:
    return evaluate(replace(request, **changes), Progress(quiet=True))


def vectors(pack: Path, flip: str = "none") -> dict[tuple[int, int], npt.NDArray[np.float64]]:
    """Return the unit vector of every crop that is one, by the recogniser alone."""
    plain = Recogniser(find_pack(str(pack)), EmbedSettings(), ModelSettings())
    found = {}
    for person in range(PEOPLE):
        for shot in range(SHOTS):
            if (person, shot) == (0, 2):
                continue
            one = plain.embed([crop(person, shot)])[0].astype(np.float64)
            other = plain.embed([np.ascontiguousarray(crop(person, shot)[:, ::-1])])[0]
            if flip == "sum":
                one = one + other  # insightface: verification.py adds raw embeddings
            if flip == "concat":
                one = np.concatenate([one, other])  # SphereFace: evaluation.m, [f1; f2]
            found[person, shot] = one / np.linalg.norm(one)
    return found


@pytest.mark.parametrize("flip", ["none", "sum", "concat"])
def test_crops_of_a_folder_are_judged_as_their_vectors_say(
    request_: Request, made_pack: Path, flip: str
) -> None:
    known = vectors(made_pack, flip)
    listed = made_pairs()
    similarity = [
        float(known[a] @ known[b]) if a in known and b in known else math.nan for a, b, _ in listed
    ]
    same = [s for *_, s in listed]
    expected = fold_accuracy(similarity, same, np.repeat(np.arange(FOLDS), 2 * PAIRS))
    result = run(request_, settings=load(None, [f"embed.flip={flip}"])).result
    (model,) = result["models"]
    assert model["flip"] == flip and model["pairs"] == 2 * FOLDS * PAIRS
    assert model["pairs_without_face"] == sum(map(math.isnan, similarity)) > 0
    assert model["accuracy"] == pytest.approx(expected.mean)
    assert [f["threshold"] for f in model["folds"]] == pytest.approx(
        expected.threshold.tolist(), abs=1e-5
    )
    assert [t["far"] for t in model["tar_at_far"]] == [0.1]  # 60 mismatched pairs
    assert model["fars_unsupported"] == [0.01, 0.001]
    (point,) = model["tar_at_far"]
    assert point["tar"] == pytest.approx(tar_at_far(similarity, same, 0.1).tar)
    assert point["interval_95"][0] <= point["tar"] <= point["interval_95"][1]
    assert model["people_interval_95"][0] <= model["accuracy"] <= model["people_interval_95"][1]


def test_any_number_of_workers_gives_the_same_result(request_: Request) -> None:
    assert run(request_, workers=3).result == run(request_, workers=1).result


def test_a_bin_set_gives_what_its_pictures_give(
    request_: Request, crops: Path, tmp_path: Path
) -> None:
    listed = [pair for pair in made_pairs() if (0, 2) not in pair]
    files = [crops / f"P{p:02d}" / f"{name(p, s)}.png" for a, b, _ in listed for p, s in (a, b)]
    path = tmp_path / "made.bin"
    data = [np.frombuffer(file.read_bytes(), np.uint8) for file in files]
    path.write_bytes(pickle.dumps((data, [same for *_, same in listed]), protocol=2))
    found = run(request_, data=str(path), pairs=None).result["models"][0]
    assert len(found["folds"]) == 10 and found["pairs_without_face"] == 0
    whole = run(request_).curves["pairs"][0]
    assert np.sort(run(request_, data=str(path), pairs=None).curves["pairs"][0].matched) == (
        pytest.approx(np.sort(whole.matched))
    )
    with pytest.raises(UsageError, match="pairs of its own"):
        run(request_, data=str(path))
    path.write_bytes(pickle.dumps((data[:2], [True]), protocol=4))
    with pytest.raises(UsageError, match="1 pairs, 1 of them matched"):
        run(request_, data=str(path), pairs=None)


def test_packs_stand_side_by_side_with_their_paired_difference(
    request_: Request, made_pack: Path
) -> None:
    pack = find_pack(str(made_pack))
    spec = pack.need_recogniser().model_copy(update={"std": (900.0, 60.0, 127.5)})
    other = pack.model_copy(update={"recogniser": spec})
    three = (("one", pack), ("two", other), ("again", pack))
    first, second, third = run(request_, packs=three).result["models"]
    assert "difference" not in first and first["model_id"] != second["model_id"]
    assert second["difference"]["accuracy"]["difference"] == pytest.approx(
        second["accuracy"] - first["accuracy"]
    )
    assert second["difference"]["tar_at_far"][0]["difference"] == pytest.approx(
        second["tar_at_far"][0]["tar"] - first["tar_at_far"][0]["tar"]
    )
    assert third["difference"] == {
        "accuracy": {"difference": 0.0, "interval_95": [0.0, 0.0]},
        "tar_at_far": [{"far": 0.1, "difference": 0.0, "interval_95": [0.0, 0.0]}],
    }
    assert {**third, "model": "one", "difference": 0} == {**first, "difference": 0}


def test_a_pack_beside_changes_nothing_of_those_that_were_asked_for(
    request_: Request, tmp_path: Path
) -> None:
    other = find_pack(str(made.pack(tmp_path / "other", seed=2)))
    wanted = {"identify": True, "distractors": request_.data}
    plain = run(request_, **wanted)
    found = run(request_, beside=("builtin", other), **wanted)
    assert {k: v for k, v in found.result.items() if k != "beside"} == plain.result
    asked = run(request_, packs=(*request_.packs, ("builtin", other)), **wanted)
    assert found.result["beside"] == asked.result["models"][1]
    assert found.result["beside"]["model_id"] != found.result["models"][0]["model_id"]
    assert [curve.model for curve in found.curves["pairs"]] == ["made", "builtin (beside)"]
    told = format_evaluation(found.result).splitlines()
    named = [line.split("  ")[0] for line in told]
    assert named.count("builtin (beside)") == 2  # a row of each of the two tables
    note = "builtin (beside): not asked for, on the same crops, to compare with."
    assert told.count(note) == 1 and note in page(found)


def test_what_stands_beside_is_said_and_counted(
    request_: Request, made_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ("builtin", find_pack(str(made_pack)))
    assert outline(replace(request_, beside=beside)) == outline(request_) | {"beside": "builtin"}
    evaluate(replace(request_, beside=beside), Progress())
    pictures_used = outline(request_)["pictures"]
    assert f"builtin embeds the same {pictures_used} crops" in capsys.readouterr().err
    with pytest.raises(ValueError, match="stand alone"):
        replace(request_, packs=(), beside=beside)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return photos, not crops, of the same people, and one without a face."""
    folder = tmp_path_factory.mktemp("photos")
    for person in range(6):
        for shot in range(SHOTS):
            photo = made.photo([(person, shot, 120, 100)], background=10 * person + shot)
            made.save(folder / f"P{person:02d}" / f"{name(person, shot)}.png", photo)
    made.save(folder / "P06" / f"{name(6, 0)}.png", made.photo([], background=5))
    return folder


def small_pairs(path: Path) -> Path:
    lines = ["2\t3"]
    for fold in (0, 3):
        lines += [f"P{fold + n:02d}\t1\t2" for n in range(3)]
        lines += [f"P{fold + n:02d}\t1\tP{(fold + n + 1) % 7:02d}\t1" for n in range(3)]
    path.write_text("\n".join(lines))
    return path


def test_photos_a_dataset_and_its_crops_agree(
    pictured: Path, made_pack: Path, tmp_path: Path
) -> None:
    pairs = small_pairs(tmp_path / "pairs.txt")
    curated([pictured], tmp_path / "ds", made_pack, workers=1, steps=("detect", "embed"))
    dataset = open_dataset(tmp_path / "ds")
    packs = (("made", find_pack(str(made_pack))),)
    request = Request(
        data=str(pictured), packs=packs, settings=load(None, []), pairs=str(pairs), samples=100
    )
    photos = run(request).curves["pairs"][0]
    again = run(request, data=dataset.uri).curves["pairs"][0]
    np.testing.assert_array_equal(photos.matched, again.matched)
    np.testing.assert_array_equal(photos.mismatched, again.mismatched)
    assert (len(photos.matched), len(photos.mismatched)) == (6, 5)  # P06 shows no face
    own = evaluate_pairs(dataset, str(pairs))
    assert own["pairs"] == 12 and own["pairs_without_face"] == 1
    assert own["model_id"] == dataset.current_model()
    stored = run(request, data=dataset.uri, packs=()).curves["pairs"][0]
    np.testing.assert_allclose(stored.matched, photos.matched, atol=2e-3)  # float16
    assert "accuracy" in format_evaluation(own).splitlines()[1]


def test_what_stands_beside_finds_no_face_for_the_others(
    request_: Request, pictured: Path, made_pack: Path, tmp_path: Path
) -> None:
    whole = find_pack(str(made_pack))
    blind = (("blind", whole.model_copy(update={"detector": None})),)
    pairs = str(small_pairs(tmp_path / "pairs.txt"))
    with pytest.raises(UsageError, match="no pack has a detector"):
        run(request_, data=str(pictured), packs=blind, pairs=pairs, beside=("builtin", whole))


def test_people_are_searched_for(request_: Request, made_pack: Path, tmp_path: Path) -> None:
    for n in range(5):
        made.save(tmp_path / "more" / f"{n}.png", crop(100 + n, 0))
    found = run(request_, pairs=None, identify=True, distractors=str(tmp_path / "more"))
    identification = found.result["models"][0]["identification"]
    assert (identification["enrolled"], identification["strangers"]) == (PEOPLE - 6, 6)
    assert identification["searches"] == 2 * (PEOPLE - 6)
    assert identification["distractors"] == 5
    assert identification["fnir_at_fpir"] == []
    assert identification["fpirs_unsupported"] == [0.1, 0.01, 0.001]
    known = vectors(made_pack)
    gallery = [known[p, 0] for p in range(PEOPLE - 6)]
    plain = Recogniser(find_pack(str(made_pack)), EmbedSettings(), ModelSettings())
    others = plain.embed([crop(100 + n, 0) for n in range(5)]).astype(np.float64)
    gallery += list(others / np.linalg.norm(others, axis=1, keepdims=True))
    first = [
        (p, s) in known and int(np.argmax(np.array(gallery) @ known[p, s])) == p
        for p in range(PEOPLE - 6)
        for s in (1, 2)
    ]
    assert identification["ranks"][0]["rate"] == pytest.approx(sum(first) / len(first))
    with pytest.raises(UsageError, match=r"FPIR 0\.01 cannot be measured with 6"):
        run(request_, pairs=None, identify=True, fars=(0.01,))


def test_templates_are_pooled_and_compared(request_: Request, tmp_path: Path) -> None:
    faces = tmp_path / "faces.txt"
    shots = [(p, s) for p in range(1, PEOPLE - 6) for s in range(SHOTS)]
    faces.write_text("".join(f"{name(p, s)}.png {2 * p + (s > 0)} {s // 2}\n" for p, s in shots))
    listed = [(2 * p, 2 * p + 1, 1) for p in range(1, PEOPLE - 6)]
    listed += [(2 * p, 2 * q + 1, 0) for p in range(1, PEOPLE - 6) for q in range(1, p)]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{a} {b} {same}\n" for a, b, same in listed))
    lists = (str(faces), str(pairs))
    found = run(request_, pairs=None, templates=lists)
    (model,) = found.result["models"]
    assert model["templates"]["pairs"] == len(listed)
    assert len(found.curves["templates"][0].matched) == PEOPLE - 7
    assert [t["far"] for t in model["templates"]["tar_at_far"]] == [0.1, 0.01]
    faces.write_text("nobody.png 1 1\n")
    with pytest.raises(UsageError, match=r"no picture 'nobody.png'"):
        run(request_, pairs=None, templates=lists)


def test_groups_have_one_threshold(request_: Request, tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    rows = [
        f"{name(p, s)}.png,{'even' if p % 2 == 0 else 'odd'}" for p in range(20) for s in (0, 2)
    ]
    path.write_text("path,group\n" + "\n".join(rows) + "\n")
    groups = run(request_, groups=str(path)).result["models"][0]["groups"]
    assert groups["far"] == 0.1
    even, odd = groups["groups"]
    listed = made_pairs()
    assert even["group"] == "even" and odd["group"] == "odd"
    assert even["matched"] == sum(same and a[0] % 2 == 0 and a[1] != 1 for a, _, same in listed)
    assert [said.split()[0] for said in even["unsupported"]] == ["FNMR", str(even["mismatched"])]
    path.write_text("elsewhere.png,x\n")
    with pytest.raises(UsageError, match="names no picture"):
        run(request_, groups=str(path))
    path.write_text("a.png,x,y\n")
    with pytest.raises(UsageError, match="line 1"):
        run(request_, groups=str(path))


@pytest.mark.parametrize("ending", ["", "/", "/../{name}/"])
def test_pictures_are_named_below_their_folder(
    crops: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.chdir(crops.parent)
    source = open_source(crops.name + ending.format(name=crops.name))
    assert source.pictures[0] == Picture(path=f"P00/{name(0, 0)}.png", label="P00")
    assert open_source(str(crops)).pictures == source.pictures


def test_a_far_that_the_pairs_cannot_show_is_refused(request_: Request) -> None:
    with pytest.raises(UsageError, match=r"FAR 0\.001 cannot be measured with 60 impostor"):
        run(request_, fars=(0.1, 0.001))


def test_the_page_loads_nothing_and_is_the_same_twice(request_: Request) -> None:
    pack = request_.packs[0][1]
    evaluation = run(request_, packs=(("<b>one</b>", pack), ("two & more", pack)))
    text = page(evaluation)
    assert text == page(run(request_, packs=(("<b>one</b>", pack), ("two & more", pack))))
    assert "<b>one</b>" not in text and "&lt;b&gt;one&lt;/b&gt;" in text
    assert not re.search(r"(src|href)=|<script|url\(", text)
    assert text.count("<svg") == 4  # DET, ROC, two histograms
    drawn = pictures(evaluation)
    names = ["pairs-det.png", "pairs-roc.png", "pairs-scores-1.png", "pairs-scores-2.png"]
    assert list(drawn) == names
    for data in drawn.values():
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and picture.shape[1] >= 800
        assert (picture != 255).any(axis=2).mean() > 0.01  # something is drawn


def test_a_dry_run_counts_and_embeds_nothing(request_: Request) -> None:
    found = outline(replace(request_, identify=True))
    assert found["pairs"] == 2 * FOLDS * PAIRS and found["models"] == ["made"]
    assert found["pictures"] == SHOTS * (PEOPLE - 6) + 6
    assert found["searches"] == 2 * (PEOPLE - 6) + 6


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pairs": None}, "nothing to measure"),
        ({"packs": ()}, "is no dataset: name a PACK"),
        ({"distractors": "x"}, "--distractors are for --identify"),
        ({"pairs": None, "identify": True, "groups": "x"}, "--groups are of the people"),
        ({"pairs": "/no.txt"}, "does not exist"),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    request_: Request, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        run(request_, **changes)


def test_photos_need_a_detector_and_data_a_place(
    request_: Request, pictured: Path, tmp_path: Path
) -> None:
    name_, pack = request_.packs[0]
    blind = pack.model_copy(update={"detector": None})
    pairs = str(small_pairs(tmp_path / "pairs.txt"))
    with pytest.raises(UsageError, match=r"320 x 320 px, no aligned crop"):
        run(request_, data=str(pictured), packs=((name_, blind),), pairs=pairs)
    with pytest.raises(SourceNotFound, match="nowhere does not exist"):
        run(request_, data=str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFound, match="no face recogniser"):
        run(request_, packs=((name_, pack.model_copy(update={"recogniser": None})),))


def test_results_are_json(request_: Request) -> None:
    result = run(request_, identify=True).result
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "less the first" not in format_evaluation(result)
