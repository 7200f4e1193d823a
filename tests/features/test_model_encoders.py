"""Model encoders without Spark: checkpoints by path, devices, and what is refused before any work is done."""

from __future__ import annotations

import json
import pickle
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from esans.config import build
from esans.errors import BundleError, ConfigError, DataError
from esans.features import open_clip_images, timm_images, weights
from esans.features.encoding import encode_images, readable_errors
from esans.features.stage import Features, _previous
from esans.features.worker import Work, checked, cuda_index, device, encode_batches
from esans.settings import Settings
from tests.features.test_pictures import picture


def section(modality, **values):
    return getattr(build(Settings, {"features": {modality: values}}).features, modality)


def library(name):
    """A library of the encoders' extra; the test is skipped where it does not import (a torchvision of another torch build, say)."""
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} does not import here: {error}")


def encode(module, config, contents):
    """Contents through the worker's half, as a task would."""
    work = Work(module, "image", config, f"{module}{config.checkpoint}")
    batch = pa.RecordBatch.from_pydict({"content": [str(place) for place in range(len(contents))], "payload": contents})
    done: list[int] = []
    found = list(encode_batches(work, iter([batch]), SimpleNamespace(add=done.append)))
    assert sum(done) == len(contents)
    return pa.Table.from_batches(found).to_pydict()


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def test_open_clip_loads_a_checkpoint_by_path_and_gives_what_the_model_gives(tmp_path):
    open_clip, torch = library("open_clip"), library("torch")
    from esans.features.pictures import Limits, decode

    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip", load_weights=False)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    config = section(
        "image", encoder="open_clip", architecture=str(tmp_path / "tiny-clip.json"), checkpoint=str(tmp_path / "clip.pt"), batch_size=2
    )
    contents = [picture(seed=1), b"broken", picture("PNG", "RGBA", seed=2)]
    found = encode("esans.features.open_clip_images", config, contents)
    assert found["status"] == ["ok", "corrupt", "ok"]
    assert found["vector"][1] is None
    assert "UnidentifiedImageError" in found["detail"][1]
    images = [transform(decode(contents[place], Limits(1 << 20, 1 << 20))) for place in (0, 2)]
    with torch.inference_mode():
        wanted = model.eval().encode_image(torch.stack(images)).numpy()
    np.testing.assert_allclose([found["vector"][0], found["vector"][2]], wanted, atol=1e-5)
    assert set(open_clip_images.identity(config)) == {"encoder", "code", "architecture", "checkpoint"}


def test_timm_loads_a_checkpoint_with_its_classifier_from_a_pickle_or_safetensors_and_refuses_one_that_does_not_fit(tmp_path):
    timm, torch = library("timm"), library("torch")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    contents, found = [picture(seed=1), picture("PNG", "L", seed=2)], []
    for name in ("net.pth", "net.safetensors"):
        config = section("image", encoder="timm", architecture="test_resnet", checkpoint=str(tmp_path / name))
        found.append(np.array(encode("esans.features.timm_images", config, contents)["vector"]))
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (2, model.num_features)
    other = section("image", encoder="timm", architecture="test_vit", checkpoint=str(tmp_path / "net.pth"))
    with pytest.raises(ValueError, match="net.pth does not fit test_vit: .* weights are missing"):
        timm_images.load(other, "cpu")


class Dangerous:
    def __reduce__(self):
        return print, ("code in a checkpoint ran",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys):
    _, torch = library("timm"), library("torch")
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"w": Dangerous()}))
    torch.save({"w": Dangerous()}, tmp_path / "worse.pth")
    for name in ("bad.pth", "worse.pth"):
        config = section("image", encoder="timm", architecture="test_resnet", checkpoint=str(tmp_path / name))
        with pytest.raises(RuntimeError, match="features.image.encoder: the model cannot be loaded on an executor: "):
            encode("esans.features.timm_images", config, [picture()])
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("modality", "values", "text"),
    [
        (
            "text",
            {"encoder": "sentence_transformers", "model": "/no/such/model"},
            "features.text.model = '/no/such/model': there is no such file or folder on this machine. Correct the path.",
        ),
        (
            "image",
            {"encoder": "timm", "architecture": "test_resnet", "checkpoint": "s3://models/net.pth"},
            "features.image.checkpoint = 's3://models/net.pth': must be a path that this machine and every executor have. "
            "Copy the files there.",
        ),
        (
            "image",
            {"encoder": "module", "module": "no_such_package.encoders:make"},
            "module 'no_such_package.encoders' of the encoder 'no_such_package.encoders:make' is not there. "
            "Install it, or put its folder on the PYTHONPATH.",
        ),
    ],
)
def test_a_model_that_is_not_there_is_named_when_the_stage_is_planned(modality, values, text):
    features = build(Settings, {"features": {modality: values}}).features
    with pytest.raises(ConfigError) as error:
        Features.outside_inputs(features)
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("modality", "values", "text"),
    [
        ("text", {"encoder": "sentence_transformers"}, "text.encoder = 'sentence_transformers' needs text.model."),
        ("image", {"encoder": "timm"}, "image.encoder = 'timm' needs image.architecture and image.checkpoint."),
        ("image", {"encoder": "module", "module": "mine"}, "image.module = 'mine': must look like package.module:factory."),
        (
            "image",
            {"encoder": "clip"},
            "image.encoder = 'clip': must be one of auto, columns, open_clip, timm, module, none.",
        ),
    ],
)
def test_a_key_that_an_encoder_needs_is_asked_for_by_name(modality, values, text):
    with pytest.raises(ConfigError) as error:
        build(Settings, {"features": {modality: values}})
    assert str(error.value) == f"features.{modality}: {text}"


def test_a_missing_package_is_named_with_its_cure_and_nothing_is_imported(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None if name == "timm" else object())
    with pytest.raises(ConfigError) as error:
        weights.require_packages(timm_images.PACKAGES, "timm", "image")
    assert str(error.value) == (
        "features.image.encoder = 'timm' needs the package timm, which is not installed here. Cure: pip install \"esans[encoders]\""
    )


def test_the_fingerprint_of_a_model_follows_its_files_and_not_their_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "weights.bin").write_bytes(b"w")
    (tmp_path / "two" / ".cache").write_bytes(b"not part of it")
    first = weights.fingerprint(tmp_path / "one")
    assert first == weights.fingerprint(tmp_path / "two")
    (tmp_path / "two" / "sub" / "weights.bin").write_bytes(b"v")
    assert first != weights.fingerprint(tmp_path / "two")


def test_a_task_runs_on_the_gpu_that_spark_gave_it_and_else_on_its_own_cores(monkeypatch):
    torch = pytest.importorskip("torch")
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    plain = SimpleNamespace(resources=dict, cpus=lambda: 3)
    assert (device(plain), device(None), threads) == ("cpu", "cpu", [3, 1])
    task = SimpleNamespace(resources=lambda: {"gpu": SimpleNamespace(addresses=["5"])}, cpus=lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="Spark assigned GPU 5 to a task, and torch sees no GPU on that executor"):
        device(task)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert device(task) == "cuda:1"
    assert [cuda_index("2", ""), cuda_index("1", "7,8"), cuda_index("GPU-b", "GPU-a,GPU-b")] == [2, 1, 1]


def test_an_encoder_that_gives_no_matrix_is_an_error_in_one_line():
    work = Work("m", "text", None, "")
    for bad in (np.zeros(3), np.zeros((2, 4)), np.array([["a"]] * 3)):
        with (
            pytest.raises(ConfigError, match=r"^features.text.encoder: encode\(\) of 3 contents gave an array of shape"),
            readable_errors(),
        ):
            checked(bad, 3, work)
    assert checked([[1, 2], [3, 4], [5, 6]], 3, work).dtype == np.float32


def test_pictures_that_are_not_mapped_and_a_bundle_of_another_stage_are_refused():
    with pytest.raises(DataError) as error:
        encode_images(None, SimpleNamespace(images=None), "m", {})
    assert str(error.value) == (
        "items: there are no pictures. Map prepare.items.columns.image, or set features.image.encoder to auto, columns or none."
    )
    with pytest.raises(BundleError) as error:
        _previous({"previous": SimpleNamespace(uri="file:///b", manifest={"stage": "align"})})
    assert str(error.value) == "features.previous = file:///b: is a bundle of the align stage, not of features."
