"""The model in MLflow: an artifact of the run, a version in the registry, an alias."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from esans import __version__

if TYPE_CHECKING:
    from esans.export.config import RegistryConfig
    from esans.tracking import Run

_ARTIFACT_PATH = "retrieval_model"


def register(run: Run, retriever: Path, example: list[list[str]], config: RegistryConfig, tags: dict[str, str]) -> str:
    """Log the pyfunc to the run, register it, move the alias, and return the version.

    Args:
        run: the export run.
        retriever: folder that `esans.export.retriever.write_folder` wrote.
        example: a few raw histories, kept as the input example.
        config: name and alias.
        tags: kept on the version.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(run.tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / _ARTIFACT_PATH, retriever, example)
        client.log_artifacts(run.run_id, str(Path(folder) / _ARTIFACT_PATH), _ARTIFACT_PATH)
    try:
        client.get_registered_model(config.name)
    except MlflowException:
        client.create_registered_model(config.name, description="Two-tower retrieval: raw item histories in, item ids with scores out.")
    source = f"{client.get_run(run.run_id).info.artifact_uri}/{_ARTIFACT_PATH}"
    # It tells at every registration how long it would wait, which reads like trouble in a job's output.
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)
    created = client.create_model_version(config.name, source, run_id=run.run_id, tags=tags)
    client.set_registered_model_alias(config.name, config.alias, created.version)
    return str(created.version)


def save(path: Path, retriever: Path, example: list[list[str]]) -> None:
    """Save the pyfunc to a local folder: code by reference to this package, signature, input example, requirements."""
    import mlflow.pyfunc
    import pandas as pd

    from esans.export import pyfunc

    mlflow.pyfunc.save_model(
        path,
        python_model=pyfunc.__file__,
        artifacts={pyfunc.ARTIFACT: str(retriever)},
        signature=pyfunc.SIGNATURE,
        input_example=pd.DataFrame({"history": example, "k": [10] * len(example)}),
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """What a process needs to load the model, as installed here: this package, MLflow (which brings readers of tables), torch, faiss."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"esans=={__version__}"]
    for package in ("mlflow", "torch", "faiss-cpu", "faiss-gpu"):
        try:
            found.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return found
