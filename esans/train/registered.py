"""The train bundle behind a version of the model registry."""

from __future__ import annotations

from esans.bundle import Bundle
from esans.errors import ConfigError


def bundle_of(model_uri: str, tracking_uri: str) -> Bundle:
    """The bundle that a registered version was exported from.

    Args:
        model_uri: models:/NAME/VERSION.
        tracking_uri: of the MLflow that knows it.

    Raises:
        ConfigError: there is no such version, or no export bundle of this project stands behind it.
        BundleError: one of the bundles is gone.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name, version = model_uri.removeprefix("models:/").split("/")
    try:
        tags = MlflowClient(tracking_uri).get_model_version(name, version).tags
    except MlflowException as error:
        raise ConfigError(f"train.warm_start = {model_uri!r}: {tracking_uri} has no such version ({error.message}).") from None
    if "bundle" not in tags:
        raise ConfigError(f"train.warm_start = {model_uri!r}: no export bundle stands behind that version; name a train bundle.")
    return Bundle.open(Bundle.open(tags["bundle"]).manifest["inputs"]["train"])
