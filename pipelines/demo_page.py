"""The demo's page: what each file is, what facepipe made of it, and whether that was expected.

One HTML file that loads nothing. It holds no time and nothing random: a demo that is run again
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from facepipe.errors import StoreFull
from facepipe.sources import path_of
from pipelines.demo import DATASET, INDEX, PAGE, PHOTOS, QUERIES, Searched, Shown, Trained
from pipelines.demo_curve import loss_plot
from pipelines.demo_files import MIN_FACES, Expected, Kind
from pipelines.demo_originals import ALL, Original, find_originals
from pipelines.demo_outcomes import Outcome
from pipelines.demo_pictures import LARGE_PX, THUMB_PX, Frame, face_cut, framed, thumb
from pipelines.evaluate_figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from pipelines.evaluate_text import tables
from pipelines.report_figures import MINUS, number
from pipelines.report_shots import shown as cleaned

SAID_CHARS = 300
FOLDED_AFTER = 14  # files of a section, two rows of a wide window; the rest is a click away
# Of these the face is what was changed: it is shown from near.
_CLOSE = {Kind.FRAME, Kind.WRONG, Kind.SECOND, Kind.UNLABELLED}

# Title and meaning of each kind of file, in the order of the page.
SECTIONS: dict[Kind, tuple[str, str]] = {
    Kind.ORIGINAL: (
        "One photo of each person",
        "The real ones. Six people were cut out of one group photo, with what is around them. "
        "Where a copy has more pixels between the eyes or is sharper, facepipe keeps that "
        "instead, and the photo is its duplicate.",
    ),
    Kind.FRAME: (
        "Frames of a burst",
        "Made of that one photo: bent as if the head had turned by a few degrees and the mouth "
        "had moved, with other light and noise. A burst is no duplicate, so all should stay.",
    ),
    Kind.COPY: (
        "Copies of a picture",
        "The same photo in another file. Of each picture one file should stay.",
    ),
    Kind.GROUP: (
        "The whole group photo",
        "It lies in no folder. Its six faces are those that were cut out: each should be found "
        "to be a duplicate, and so get its name.",
    ),
    Kind.WRONG: (
        "Wrong labels",
        "Frames in the folder of somebody else. Who has a folder should be moved there; who has "
        "none should be dropped.",
    ),
    Kind.SECOND: (
        "One person under two labels",
        "A second folder of the astronaut, under another name. Both should become one person.",
    ),
    Kind.UNLABELLED: (
        "Without a label",
        "Frames that lie in no folder. They should stay, without a name: labels are only taken "
        "from folders, and a search finds who it is.",
    ),
    Kind.TURNED: (
        "Turned photos",
        "What a camera noted in EXIF is obeyed. A photo that lies on its side without a note is "
        "not looked at from all sides unless you ask for it: --set detect.rotations=all, at four "
        "times the cost.",
    ),
    Kind.DAMAGED: (
        "Damaged files",
        "What can be saved of a photo is used; the rest is a row with the decoder's words. No "
        "file ends a run.",
    ),
    Kind.UNFIT: (
        "Found, and of no use",
        "Faces that no recogniser can tell apart are marked, and not used.",
    ),
    Kind.FACELESS: (
        "Without a face",
        "Real photos of things, and a cat.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A file as the page shows it."""

    source: str  # data URI, empty where there are no pixels
    frames: tuple[Frame, ...]
    name: str
    told: str
    said: str
    expected: str
    as_expected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Files of one kind."""

    anchor: str
    title: str
    meaning: str
    cards: tuple[Card, ...]
    surprises: int


def write_page(shown: Shown) -> Path:
    """Write the page into the demo's folder and return its path. Raises StoreFull."""
    path = shown.demo.out / PAGE
    try:
        path.write_bytes(page(shown).encode("utf-8", "replace"))
    except OSError as error:
        raise StoreFull(f"cannot write {path} ({error.strerror}): choose another --out") from error
    return path


def page(shown: Shown) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # paths and decoders' words are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "cosine": _cosine, "shown": cleaned}
    cards = {o.made.name: _card(o) for o in shown.outcomes}
    originals, _ = find_originals()
    return environment.get_template("demo.html.j2").render(
        demo=shown.demo,
        photos=len(shown.outcomes),
        originals=[_original(originals[k.path]) for k in ALL if k.path in originals],
        missing=shown.photos.missing,
        surprises=[cards[o.made.name] for o in shown.surprises],
        surprises_in_all=shown.surprises_in_all,
        sections=_sections(shown.outcomes, cards),
        searches=[_search(shown, searched) for searched in shown.searches],
        steps=_steps(shown),
        folded_after=FOLDED_AFTER,
        threshold=shown.threshold,
        export=shown.export,
        training=None if shown.trained is None else _training(shown, shown.trained),
        curve=None if shown.trained is None else loss_plot(shown.trained.metrics),
        tables=[] if shown.evaluation is None else tables(shown.evaluation),
        evaluation_problem=shown.evaluation_problem,
        places={"photos": PHOTOS, "queries": QUERIES, "dataset": DATASET, "index": INDEX},
        plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT}
        | {"top": TOP, "bottom": BOTTOM},
    )


def _sections(outcomes: Sequence[Outcome], cards: Mapping[str, Card]) -> list[Section]:
    found = []
    for kind, (title, meaning) in SECTIONS.items():
        own = [cards[o.made.name] for o in outcomes if o.made.kind is kind]
        if own:
            found.append(
                Section(
                    anchor=kind.value,
                    title=title,
                    meaning=meaning,
                    cards=tuple(own),
                    surprises=sum(not card.as_expected for card in own),
                )
            )
    return found


def _card(outcome: Outcome) -> Card:
    made, face, frames = outcome.made, outcome.face, tuple[Frame, ...]()
    if made.kind in _CLOSE and face is not None:
        source = face_cut(made.data, face.box_px)
    else:
        several = made.expected is Expected.NAMED
        source = thumb(made.data, LARGE_PX if several else THUMB_PX)
        faces = outcome.faces if several or face is None else (face,)
        size = (outcome.width_px, outcome.height_px)
        frames = tuple(framed(found.box_px, *size) for found in faces)
    return Card(
        source=source,
        frames=frames,
        name=made.name,
        told=made.told,
        said=cleaned(outcome.said, SAID_CHARS),
        expected=outcome.expected,
        as_expected=outcome.as_expected,
    )


def _original(original: Original) -> dict[str, str]:
    return {
        "source": thumb(original.data, LARGE_PX),
        "name": original.name,
        "what": original.known.what,
    }


def _search(shown: Shown, searched: Searched) -> dict[str, Any]:
    """Return a search: its photo, and the best hits of its surest face."""
    faces = searched.result["faces"]
    best = max(faces, key=lambda face: face["det_score"], default=None)
    return {
        "source": thumb(searched.query.data, LARGE_PX),
        "told": searched.query.told,
        "name": searched.query.name,
        "expected": searched.query.person or "nobody",
        "as_expected": searched.as_expected,
        "verdict": "no face found" if best is None else best["verdict"],
        "hits": [] if best is None else [_hit(shown, hit) for hit in best["hits"]],
    }


def _hit(shown: Shown, hit: Mapping[str, Any]) -> dict[str, Any]:
    """Return a hit with its face as it lies in its photo, and the photo's name."""
    path, root = Path(path_of(hit["uri"])), (shown.demo.out / PHOTOS).resolve()
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    data = path.read_bytes() if path.is_file() else b""
    return {**hit, "source": face_cut(data, hit["box_xyxy_px"]), "name": cleaned(name)}


def _training(shown: Shown, trained: Trained) -> dict[str, Any]:
    pack = Path(trained.result["pack"])
    return {"step": trained.result["step"], "pack": f"{pack.parent.name}/{pack.name}"}


def _steps(shown: Shown) -> list[tuple[str, str]]:
    """Return each command that ran, and what came of it."""
    counts, export = shown.counts, shown.export
    found = [
        (
            "facepipe detect",
            f"{_listed(counts['photos'], 'files')}. {_listed(counts['faces'], 'faces')}",
        ),
        ("facepipe embed", _listed(counts["embeddings"], "vectors")),
        ("facepipe dedup", _listed(counts["duplicates"], "faces")),
        ("facepipe clean", _listed(counts["decisions"], "faces")),
        (
            "facepipe index build",
            f"a gallery of the kept faces, and its threshold: {_cosine(shown.threshold)}",
        ),
        ("facepipe index search", f"{len(shown.searches)} photos that were kept out"),
        (
            f"facepipe export --min-faces {MIN_FACES}",
            f"{export['exported']} faces of {export['people']} people, a folder each",
        ),
    ]
    if shown.trained is None:
        found.append(("facepipe train", shown.demo.left_out or "left out: no face was kept"))
    else:
        found.append(("facepipe train", f"{shown.trained.result['step']} steps, a model pack"))
    found.append(("facepipe evaluate", shown.evaluation_problem or "below"))
    return [*found, ("facepipe report", f"{DATASET}/report.html")]


def _listed(counts: Mapping[str, int], what: str) -> str:
    """Return how many there are, and of which kinds."""
    parts = ", ".join(f"{number(n)} {word.replace('_', ' ')}" for word, n in counts.items())
    return f"{number(sum(counts.values()))} {what}: {parts}"


def _cosine(value: float) -> str:
    """Return a similarity to two places, never minus zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)
