"""Packs as versions of registered models in MLflow, and back: `models:/NAME@champion`.

A version's folder is a pack (`facepipe --models` takes it as it is) and an MLflow model at once:
ONNX and YAML, no pickle. The version's tags hold the SHA-256 of its files; what is fetched and
is not that is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from facepipe.errors import GateFailed, ModelNotFound, StoreError
from facepipe.packs import SUMS, Pack, find_pack
from training import pack_files
from training.model_signature import describe
from training.registered import (
    MODEL_ID,
    SUMS_TAG,
    Reference,
    Registered,
    checked_name,
    parse_reference,
)
from training.tracker import DATASET, EXPERIMENT, experiment_id, explained, open_client
from training.tracking_server import server_uri, shown

_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # a version; an alias


class Registry:
    """The models of a tracking server."""

    def __init__(self, uri: str | None = None) -> None:
        """Connect. Raises UsageError, StoreError as `open_client`."""
        self.uri = server_uri(uri)
        self._client = open_client(self.uri)

    def add(self, pack: Pack, name: str, run_id: str | None = None) -> Registered:
        """Register a pack as a new version, or return the one that this run made of it before.

        Without a run it gets one that only says that it was registered. Raises UsageError for a
        name that cannot be one, ModelNotFound for a pack without a recogniser, StoreError for a
        run that is not there.
        """
        files = pack_files.pack_files(pack)
        sums = files[SUMS].decode()
        with explained(self.uri):
            self._make_model(checked_name(name))
            for known in self._versions(name):
                if known.tags.get(SUMS_TAG) == sums and run_id in (None, known.run_id):
                    return known
            run = self._run(run_id, name)
            tags = {MODEL_ID: pack.digest(pack.need_recogniser()), SUMS_TAG: sums}
            if DATASET in run.data.tags:
                tags[DATASET] = run.data.tags[DATASET]
            location, logged = self._upload(pack, files, run)
            made = self._client.create_model_version(
                name,
                location,
                run_id=run.info.run_id,
                tags=tags,
                model_id=logged,
                await_creation_for=0,  # these stores are ready at once
            )
        return _registered(made)

    def version(self, name: str, number: int) -> Registered:
        """Return a version. Raises ModelNotFound."""
        with explained(self.uri), self._found(f"models:/{name}/{number}", name):
            return _registered(self._client.get_model_version(name, str(number)))

    def versions(self, name: str) -> list[Registered]:
        """Return all versions, rising; none of a model that is not there."""
        with explained(self.uri):
            return self._versions(name)

    def aliased(self, name: str, alias: str) -> Registered | None:
        """Return the version that an alias points at; None where it points nowhere."""
        from mlflow.exceptions import MlflowException

        with explained(self.uri):
            try:
                return _registered(self._client.get_model_version_by_alias(name, alias))
            except MlflowException as error:
                if error.error_code not in _ABSENT:
                    raise
        return None

    def find(self, reference: Reference) -> Registered:
        """Return what is asked for. Raises ModelNotFound, naming what there is."""
        if reference.version is not None:
            return self.version(reference.name, reference.version)
        found = self.aliased(reference.name, reference.alias or "")
        if found is None:
            raise ModelNotFound(f"{reference} is not there: {self._has(reference.name)}")
        return found

    def point(self, name: str, alias: str, version: int, *, expected: int | None) -> None:
        """Move an alias that points at ``expected`` (None: nowhere) to a version.

        Raises GateFailed where it points elsewhere by now. MLflow has no compare-and-swap: of two
        who move it within the milliseconds between this look and the move, the last one wins, and
        the look afterwards tells the other.
        """
        self._expect(name, alias, expected)
        with explained(self.uri):
            self._client.set_registered_model_alias(name, alias, str(version))
        self._expect(name, alias, version)

    def tag(self, registered: Registered, key: str, value: str) -> None:
        """Set a tag of a version."""
        number = str(registered.version)
        with explained(self.uri):
            self._client.set_model_version_tag(registered.name, number, key, value)

    def model_tags(self, name: str) -> dict[str, str]:
        """Return the tags of a model. Raises ModelNotFound."""
        with explained(self.uri), self._found(f"model {name!r}", name):
            return dict(self._client.get_registered_model(name).tags)

    def tag_model(self, name: str, key: str, value: str) -> None:
        """Set a tag of a model."""
        with explained(self.uri):
            self._client.set_registered_model_tag(name, key, value)

    def attach(self, registered: Registered, file: str, value: object) -> None:
        """Keep a JSON value as a file of the run that a version comes from."""
        text = json.dumps(value, indent=1, sort_keys=True)
        with explained(self.uri):
            self._client.log_text(registered.run_id, text + "\n", file)

    def download(self, registered: Registered) -> Path:
        """Bring a version's files into the cache; return their folder. Raises CorruptData."""
        from mlflow.artifacts import download_artifacts

        number = str(registered.version)
        with explained(self.uri):
            location = self._client.get_model_version_download_uri(registered.name, number)

        def bring(name: str, folder: Path) -> None:
            source = f"{location.rstrip('/')}/{name}"
            with explained(self.uri, f"give {name} of {registered}"):
                download_artifacts(source, dst_path=str(folder), tracking_uri=self.uri)

        return pack_files.keep(registered.sums(), bring, f"{registered} at {shown(self.uri)}")

    def _expect(self, name: str, alias: str, version: int | None) -> None:
        found = self.aliased(name, alias)
        if (None if found is None else found.version) != version:
            raise GateFailed(
                f"{name}@{alias} is {found or 'nothing'} by now, not version {version}: somebody "
                "else has moved it; look at it, then promote again"
            )

    def _versions(self, name: str) -> list[Registered]:
        found: list[Registered] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name='{name}'", page_token=token)
            found += map(_registered, page)
            token = page.token
            if not token:
                return sorted(found, key=lambda registered: registered.version)

    def _make_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _run(self, run_id: str | None, name: str) -> Any:
        if run_id:
            return self._client.get_run(run_id)
        experiment = experiment_id(self._client, self.uri, EXPERIMENT)
        run = self._client.create_run(experiment, run_name=f"register {name}")
        self._client.set_terminated(run.info.run_id)
        return run

    def _upload(self, pack: Pack, files: Mapping[str, bytes], run: Any) -> tuple[str, str]:
        """Upload a pack as a model of a run; return where it lies, and MLflow's id of it."""
        from mlflow.entities import LoggedModelOutput

        run_id = run.info.run_id
        logged = self._client.create_logged_model(
            run.info.experiment_id, name="recogniser", source_run_id=run_id, model_type="onnx"
        )
        with TemporaryDirectory() as folder:
            pack_files.write_files(Path(folder), files)
            describe(Path(folder), pack, run_id, logged.model_id)
            self._client.log_model_artifacts(logged.model_id, folder)
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return logged.artifact_location, logged.model_id

    @contextmanager
    def _found(self, what: str, name: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise ModelNotFound(f"{what} is not there: {self._has(name)}") from error

    def _has(self, name: str) -> str:
        numbers = [str(known.version) for known in self._versions(name)]
        if not numbers:
            return f"{shown(self.uri)} has no model {name!r}; is MLFLOW_TRACKING_URI right?"
        return f"{shown(self.uri)} has the versions {', '.join(numbers)} of {name}"


def register(pack: Path, run_id: str | None, name: str, *, uri: str | None = None) -> int:
    """Register a pack's folder under a name; return the number of the version.

    Again with the same files and run it is the same version. Raises what `Registry.add` does.
    """
    return Registry(uri).add(find_pack(str(pack)), name, run_id).version


def fetch(reference: str, *, uri: str | None = None, download: bool = True) -> Path:
    """Return the folder of a registered pack: `models:/NAME@champion` or `models:/NAME/3`.

    Its files are brought into the cache once (`pack_files.cache_folder`), named by their
    checksums, against which `find_pack` holds whatever it reads of them. A version never changes,
    so one that was fetched before is also had while the server is away; an alias is not, since
    nobody would know where it points. Without ``download`` what is not in the cache is not there.

    Raises UsageError, ModelNotFound, StoreError; CorruptData naming a file that is not what was
    registered.
    """
    asked, place = parse_reference(reference), server_uri(uri)
    try:
        registry = Registry(uri)
        found = registry.find(asked)
    except StoreError:
        kept = pack_files.remembered(place, str(asked)) if asked.version else None
        if kept is None:
            raise
        _say(f"{shown(place)} does not answer: {asked} is taken from {kept}")
        return pack_files.verified(kept)
    folder = pack_files.cached(found.sums())
    what = str(asked) if asked.version else f"{asked}, version {found.version},"
    if not folder.is_dir():
        if not download:
            raise ModelNotFound(
                f"{what} is not on this machine yet: a command that uses it fetches it "
                f"from {shown(place)}"
            )
        _say(f"{what} is fetched from {shown(place)}")
        registry.download(found)
    pack_files.remember(place, str(found), folder)
    return pack_files.verified(folder)


def _registered(version: Any) -> Registered:
    return Registered(
        name=version.name,
        version=int(version.version),
        run_id=version.run_id or "",
        tags=dict(version.tags),
    )


def _say(text: str) -> None:
    print(f"facepipe: {text}", file=sys.stderr)
