"""docs/negatives.md and docs/extending.md are true: they name all there is, their snippets run, the sampler of one's own is trained."""

from __future__ import annotations

import ast
import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from esans.bundle import Bundle
from esans.columns import EASY_IDS, EXPOSED, HARD_IDS
from esans.errors import ConfigError
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import LOSSES, SAMPLERS, TEMPERATURES, build_loss, build_samplers, build_temperature, resolve
from esans.negatives.tables import Catalogue
from esans.settings import Source
from esans.train.config import TrainConfig
from tests.negatives.conftest import context_of, generator_of, make_batch, make_clusters

# In tests/train, make_inputs is a fixture of the folder.
from tests.train.conftest import make_inputs  # noqa: F401
from tests.train.test_training import config_of, records, spec_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = "\n".join((ROOT / "docs" / name).read_text() for name in ("negatives.md", "extending.md"))
EXPERIMENTS = sorted((ROOT / "conf" / "experiments").glob("*.yaml"))
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OWN = next(text for text in SNIPPETS if "mine.shelf:Shelf" in text)
TARGETS = [1, 3, 12, 30, 35, 38]


def rows_of(heading: str) -> dict[str, list[str]]:
    """Cells of the rows of all tables whose header starts with `heading`, by the name in the first."""
    found: dict[str, list[str]] = {}
    for table in re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-:|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found[cells[0].strip("`")] = cells[1:]
    return found


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's file of one's own in a package on the path, for every test: resolving its YAML imports it."""
    package = tmp_path / "path" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (package / "shelf.py").write_text(code)
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.invalidate_caches()
    yield
    for name in ("mine", "mine.shelf"):
        sys.modules.pop(name, None)


def catalogue_of_everything() -> Catalogue:
    """39 items with clusters, side columns, a graph, and what the shards stage can join."""
    tables = make_clusters([[5, 3, 2], [6], [4, 8], [10, 1]], [[-1, -1, -1], [2], [-1, -1], [-1, -1]])
    num_items = len(tables.item_cell_N)
    share = torch.arange(1, num_items + 1).float()
    codes = torch.arange(num_items) % 5
    near = (torch.arange(num_items)[:, None] + torch.arange(1, 51)) % num_items
    return Catalogue(
        num_items,
        share / share.sum(),
        tables,
        num_users=len(TARGETS),
        num_interactions=200,
        columns={EASY_IDS: (2, 2, 5), HARD_IDS: (2, 5), EXPOSED: (4,)},
        dim=8,
        side={"category": codes, "median_price": codes},
        neighbours=lambda count: near[:, :count],
    )


def batch_of_everything(num_items: int) -> Batch:
    batch = make_batch(TARGETS, known=[[2, 4], [5], [], [7, 8, 9], [36], [0]])
    random = generator_of(3)
    for column, width in ((EASY_IDS, 20), (HARD_IDS, 10), (EXPOSED, 4)):
        batch.extra[column] = torch.randint(-1, num_items, (len(batch), width), generator=random)
    return batch


def step(train: TrainConfig, epoch: float = 5.0) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Loss, gradient of the item table and figures of two steps' second one, with every group in."""
    catalogue = catalogue_of_everything()
    assert isinstance(train.loss, dict)
    assert isinstance(train.temperature, dict)
    loss, temperature = build_loss(train.loss, catalogue), build_temperature(train.temperature, catalogue)
    module = NegativeGroups(build_samplers(train.negatives, catalogue), loss, temperature)
    table = torch.randn(catalogue.num_items, 8, generator=generator_of(1)).requires_grad_()
    user = F.normalize(torch.randn(len(TARGETS), 8, generator=generator_of(2)), dim=-1)

    def encode(ids: Sequence[Tensor]) -> list[Tensor]:
        return [F.normalize(table, dim=-1)[part] for part in ids]

    batch, random = batch_of_everything(catalogue.num_items), generator_of(0)
    module(batch, user, encode, random, epoch)
    result = module(batch, user, encode, random, epoch, diagnose=True)
    result.loss_B.sum().backward()
    assert table.grad is not None
    return result.loss_B, table.grad, result.figures


@pytest.mark.parametrize(("heading", "registry"), [("sampler", SAMPLERS), ("`train.loss`", LOSSES), ("`train.temperature`", TEMPERATURES)])
def test_the_tables_name_all_samplers_losses_and_temperatures_and_no_others(heading: str, registry: Any) -> None:
    assert sorted(rows_of(heading)) == registry.known()


def test_samplers_stand_in_the_table_of_their_kind_with_their_cost() -> None:
    kinds = PAGE.index("\nGlobal:\n"), PAGE.index("\nSemantic:\n")
    catalogue = catalogue_of_everything()
    batch = make_batch([1] * 16)
    for name, cells in rows_of("sampler").items():
        keys = {"column": "category"} if name == "category" else {}
        (sampler,) = build_samplers(resolve([{"sampler": name, **keys}]), catalogue)
        row = PAGE.index(f"| `{name}` |")
        assert (row > kinds[1]) == (sampler.kind == "semantic"), name
        stated = re.match(r"\d+", cells[1])
        if stated:
            assert int(stated[0]) == sampler.encodings_per_example(batch), name
        closed = sampler.log_expected_count(context_of(batch, torch.zeros(16, 8), torch.zeros(16, 8)), torch.arange(4)) is not None
        assert closed != cells[2].startswith("no"), name


@pytest.mark.parametrize("text", SNIPPETS)
def test_every_snippet_of_the_page_resolves_beside_the_quickstart_and_trains(text: str, tmp_path: Path) -> None:
    file = tmp_path / "snippet.yaml"
    file.write_text(text)
    settings = Source((str(ROOT / "conf" / "quickstart.yaml"), str(file)), ()).load()
    given = yaml.safe_load(text)["train"]["negatives"]
    assert [group["sampler"] for group in settings.train.negatives] == [group["sampler"] for group in given]
    check_step(settings.train)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_method_resolves_beside_the_quickstart_and_trains(path: Path) -> None:
    check_step(Source((str(ROOT / "conf" / "quickstart.yaml"),), ()).load(path.stem).train)


def check_step(train: TrainConfig) -> None:
    loss_B, gradient_ND, figures = step(train)
    assert torch.isfinite(loss_B).all()
    assert torch.isfinite(gradient_ND).all()
    assert gradient_ND.abs().sum() > 0
    assert math.isclose(sum(float(value) for name, value in figures.items() if name.startswith("share_")), 1, abs_tol=1e-4)


def own_sampler(**keys: Any) -> Any:
    group = yaml.safe_load(OWN)["train"]["negatives"][1]
    return build_samplers(resolve([group | keys]), catalogue_of_everything())[0]


def test_the_sampler_of_ones_own_draws_by_its_closed_form_and_masks_what_is_known() -> None:
    sampler = own_sampler(share=0.6, num_negatives=20_000)
    # Positive 35 has code 0: no shelf, a uniform draw.
    batch = make_batch([1, 35], known=[[6, 11], [2]])
    negatives = sampler.propose(batch, torch.zeros(2, 8), generator_of(0))
    expected_2N = sampler.log_expected_count(context_of(batch), torch.arange(sampler.num_items)).exp()
    for row, false in enumerate(([1, 6, 11], [2, 35])):
        counts_N = torch.bincount(negatives.ids[row], minlength=sampler.num_items).float()
        chi2 = ((counts_N - expected_2N[row]) ** 2 / expected_2N[row]).sum()
        # Mean 38, standard deviation 8.7 at 38 degrees of freedom; seeded.
        assert chi2 < 80
        assert math.isclose(float(expected_2N[row].sum()), 20_000, rel_tol=1e-4)
        assert torch.equal(~negatives.valid[row], torch.isin(negatives.ids[row], torch.tensor(false)))
    assert torch.allclose(expected_2N[1], torch.tensor(20_000 / sampler.num_items))
    shelf = torch.arange(sampler.num_items) % 5 == 1
    assert math.isclose(float(expected_2N[0][shelf].sum()), 20_000 * (0.6 + 0.4 * 8 / 39), rel_tol=1e-4)


def test_pooled_beside_uniform_draws_the_sampler_of_ones_own_estimates_the_sum_over_the_catalogue() -> None:
    catalogue = catalogue_of_everything()
    groups = resolve([{"sampler": "uniform", "num_negatives": 5}, yaml.safe_load(OWN)["train"]["negatives"][1]])
    samplers = build_samplers(groups, catalogue)
    loss = build_loss(LOSSES.resolve({"loss": "sampled_softmax", "correction": "full"}, "train.loss"), catalogue)
    vectors = F.normalize(torch.randn(catalogue.num_items, 8, generator=generator_of(5)), dim=-1)
    rows = 20_000
    batch = make_batch([12] * rows)
    user = vectors[7].expand(rows, -1)
    context = context_of(batch, user, vectors[batch.target], temperature=torch.tensor(0.3))
    terms = []
    for sampler in samplers:
        drawn = sampler.propose(batch, user, generator_of(len(terms)))
        terms += sampler.refine(drawn, (vectors[drawn.ids] * user[:, None, :]).sum(-1), context)
    estimate_B = torch.cat(loss.logits(terms, samplers, context), dim=1).exp().sum(1)
    exact = (vectors @ vectors[7] / 0.3).exp()
    error = float(estimate_B.std()) / math.sqrt(rows)
    assert abs(float(estimate_B.mean()) - float(exact.sum() - exact[12])) < 4 * error


def test_the_sampler_of_ones_own_is_refused_with_the_key_that_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"share = 1.0: must be less than 1"):
        own_sampler(share=1.0)
    with pytest.raises(ConfigError, match=r"train.negatives: Shelf.column = 'aisle' is no side column. Known: category, median_price."):
        own_sampler(column="aisle")


@pytest.mark.slow
def test_the_sampler_of_ones_own_is_one_epoch_of_training_away(
    make_inputs: Callable[..., dict[str, Bundle]],  # noqa: F811
    tmp_path: Path,
) -> None:
    from esans.train.worker import run_worker

    groups = yaml.safe_load(OWN)["train"]["negatives"]
    groups[1]["column"] = "price"
    spec = spec_of(tmp_path / "run", make_inputs(), config_of(negatives=groups, epochs=1), f"sqlite:///{tmp_path}/mlflow.db")
    run_worker(spec.dump())
    (record,) = records(tmp_path / "run")
    assert math.isfinite(record["loss"])
    assert 0 < record["diag_share_Shelf"] < 1


def test_links_of_the_pages_and_of_the_readme_lead_somewhere_on_a_code_host() -> None:
    for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_code_of_the_page_is_short_and_documented() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    tree = ast.parse(code)
    assert len(code.splitlines()) < 90
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), node.name
