"""The pack that comes with facepipe: where its files are, and that they are all there.

Its name stands for the folder of the installation that is running: a driver and its workers
each open their own copy, wherever that lies, and checksums tell copies of two versions apart.
"""

from __future__ import annotations

from pathlib import Path

from facepipe.errors import ModelNotFound

BUILTIN = "builtin"
BUILTIN_INT8 = "builtin-int8"  # the same detector, and the recogniser's twin of 8-bit numbers
TWIN_FILE = "recogniser_int8.onnx"
LICENCE = "Apache-2.0"  # as facepipe's own, pyproject.toml; the model cards say so too
FORMER_DEFAULT = "buffalo_l"  # of --models, before there was a pack to come with facepipe

_FOLDER = Path(__file__).parent / "builtin"
_FILES = ("SHA256SUMS", "pack.yaml", "detector.onnx", "recogniser.onnx", TWIN_FILE)


def builtin_folder() -> Path:
    """Return the folder of the pack. Raises ModelNotFound where a file is missing."""
    absent = [name for name in _FILES if not (_FOLDER / name).is_file()]
    if absent:
        raise ModelNotFound(
            f"the models that come with facepipe are not whole ({_FOLDER} has no "
            f"{', no '.join(absent)}): install facepipe again, from its wheel or a whole "
            f"checkout, or give --models a folder or the name of an insightface pack such as "
            f"{FORMER_DEFAULT}"
        )
    return _FOLDER


def default_note(folder: str) -> str:
    """Return what to add where data do not fit a pack that may have been taken by default."""
    if folder != BUILTIN:
        return ""
    return (
        f" ({BUILTIN} is the default of --models now, {FORMER_DEFAULT} was before; {BUILTIN}'s own "
        "models change with a release: a dataset of the former ones goes on with that release)"
    )
