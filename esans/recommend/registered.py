"""A registered model by name: which version an alias stands for, and its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esans.errors import ConfigError

# Where the export puts the folder of esans/retrieval/folder.py inside the model.
_FOLDER = "artifacts/retriever"


def pinned(model: str, tracking_uri: str) -> str:
    """models:/NAME/VERSION of models:/NAME@ALIAS; a version stays as it is.

    Raises:
        ConfigError: the registry knows no such model, alias or version.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri)
    name, at, alias = model.removeprefix("models:/").partition("@")
    try:
        if at:
            return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
        client.get_model_version(*name.split("/"))
    except MlflowException as error:
        raise ConfigError(f"recommend.model = {model!r}: not in the registry at {tracking_uri} ({error.message})") from None
    return model


@contextmanager
def served_folder(model: str, tracking_uri: str) -> Iterator[Path]:
    """The folder of a pinned model, on this machine for the length of the block.

    Raises:
        ConfigError: the version holds no model that `esans export` registered.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    source = MlflowClient(tracking_uri).get_model_version(*model.removeprefix("models:/").split("/")).source
    with tempfile.TemporaryDirectory() as target:
        folder = Path(download_artifacts(artifact_uri=source, tracking_uri=tracking_uri, dst_path=target)) / _FOLDER
        if not folder.is_dir():
            raise ConfigError(f"recommend.model = {model!r}: its files at {source} hold no {_FOLDER}, as a model of `esans export` does.")
        yield folder
