"""Training that goes on from an earlier model: as if never stopped where nothing is new, and with every old row where something is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esans.bundle import Bundle, BundleWriter
from esans.config import build
from esans.errors import BundleError, ConfigError
from esans.model.files import save
from esans.model.grow import grow_weights, means_of_groups, place_new_items
from esans.train.config import TrainConfig
from esans.train.kept import FILE, keep
from esans.train.trainer import Trainer
from esans.train.warm_start import Earlier, facts_of, go_on
from esans.train.worker import build_trainer
from esans.uri import join

GROUPS = [{"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard"}]
Make = Callable[..., dict[str, Bundle]]


def config_of(**keys: Any) -> TrainConfig:
    base = {"negatives": GROUPS, "batch_size": 32, "epochs": 2, "patience": 0, "model": {"dim": 8, "hidden": 16}, "launch": {"threads": 1}}
    config = build(TrainConfig, {**base, "optimizer": {"learning_rate": 0.01, "warmup_steps": 3}, **keys})
    config.resolve_groups()
    return config


def trainer_of(folder: Path, inputs: dict[str, Bundle], config: TrainConfig) -> Trainer:
    return build_trainer(config, inputs, 0, 0, 1, torch.device("cpu"), join(str(folder), "scratch"), lambda values, step: None)


def trained(folder: Path, inputs: dict[str, Bundle], config: TrainConfig, earlier: Bundle | None = None) -> tuple[Bundle, Trainer]:
    """A train bundle as the stage writes it, without MLflow."""
    out, trainer = BundleWriter(str(folder), "train", folder.name), trainer_of(folder, inputs, config)
    if earlier is not None:
        go_on(trainer, inputs, Earlier.open(earlier))
    trainer.train()
    with out.local("model") as path:
        save(trainer.model, path)
    keep(trainer, config.keep_optimizer).write(join(out.data_uri, FILE))
    out.state(facts_of(inputs))
    return out.finish(code_version=1, config={}, inputs={}), trainer


@pytest.fixture
def nobody(make_inputs: Make) -> dict[str, Bundle]:
    """Inputs without validation users: the last epoch is the best."""
    return make_inputs(tested=False)


@pytest.mark.parametrize("tables", ["adamw", "sparse_adam", "adagrad"])
def test_a_warm_start_where_nothing_is_new_goes_on_as_if_never_stopped(nobody: dict[str, Bundle], tmp_path: Path, tables: str) -> None:
    optimizer = {"optimizer": {"learning_rate": 0.003, "warmup_steps": 3, "tables": tables}}
    whole, first = config_of(epochs=3, **optimizer), config_of(epochs=2, **optimizer)
    _, undisturbed = trained(tmp_path / "whole", nobody, whole)
    bundle, begun = trained(tmp_path / "first", nobody, first)
    assert begun.progress.best_epoch == 1
    _, again = trained(tmp_path / "second", nobody, config_of(epochs=1, **optimizer), bundle)
    assert again.progress.before == 2
    assert again.progress.records[0]["loss"] == undisturbed.progress.records[2]["loss"]
    one, two = undisturbed.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("tables", ["adamw", "sparse_adam", "adagrad"])
def test_growth_keeps_every_old_row_and_its_moments_and_new_rows_have_none(make_inputs: Make, tmp_path: Path, tables: str) -> None:
    model = {"dim": 8, "hidden": 16, "user_id": True, "share_item_input": False}
    keys = {"model": model, "optimizer": {"tables": tables}, "epochs": 1}
    bundle, _ = trained(tmp_path / "first", make_inputs(), config_of(**keys))
    grown = make_inputs(items=70, users=45, folder=tmp_path / "grown")
    earlier, trainer = Earlier.open(bundle), trainer_of(tmp_path / "second", grown, config_of(**keys))
    drawn = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    go_on(trainer, grown, earlier)
    now = trainer.model.state_dict()
    for name, old in earlier.weights.items():
        assert torch.equal(now[name][: len(old)] if old.dim() else now[name], old), name
    # Items of primary i // 14: items 60 .. 69 belong to the last one, whose trained rows are 56 .. 59.
    for name in ("item_inputs.id_embedding.weight", "history_inputs.id_embedding.weight"):
        torch.testing.assert_close(now[name][60:], earlier.weights[name][56:60].mean(0).expand(10, -1))
    assert torch.equal(now["user_embedding.weight"][40:], drawn["user_embedding.weight"][40:])
    kept = earlier.kept.moments
    assert kept is not None
    for name, moments in _moments(trainer).items():
        for key, value in moments.items():
            was = kept[name][key]
            if not isinstance(value, Tensor) or not value.dim():
                assert value == was
                continue
            assert torch.equal(value[: len(was)], was), (name, key)
            assert not value[len(was) :].any(), (name, key)
    trainer.train()


def _moments(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    names = {parameter: name for name, parameter in trainer.module.named_parameters()}
    parts = getattr(trainer.optimizer, "parts", (trainer.optimizer,))
    return {names[parameter]: dict(values) for part in parts for parameter, values in part.state.items()}


def test_what_samplers_and_temperature_have_learned_is_carried_over_and_grows(make_inputs: Make, tmp_path: Path) -> None:
    keys = {"negatives": [{"sampler": "in_batch", "estimate": "streaming"}], "temperature": {"temperature": "ada_tau"}, "epochs": 1}
    bundle, first = trained(tmp_path / "first", make_inputs(), config_of(**keys))
    grown = make_inputs(items=70, users=45, folder=tmp_path / "grown")
    trainer = trainer_of(tmp_path / "second", grown, config_of(**keys))
    go_on(trainer, grown, Earlier.open(bundle))
    old, new = first.module.negatives.state_dict(), trainer.module.negatives.state_dict()
    (gaps,) = (name for name in old if name.endswith("gap_N1"))
    assert torch.equal(new[gaps][:60], old[gaps][:60])
    assert not new[gaps][60:].any()
    assert torch.equal(new["temperature.loss_sum_U"][:40], old["temperature.loss_sum_U"])
    assert torch.equal(new["temperature.base_rate"], old["temperature.base_rate"])
    assert new["temperature._extra_state"] == old["temperature._extra_state"]


def test_weights_that_read_another_space_are_drawn_anew_and_this_is_said(
    make_inputs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = trained(tmp_path / "first", make_inputs(), config_of(epochs=1, keep_optimizer=False))
    other = make_inputs(folder=tmp_path / "other", space="two")
    trainer = trainer_of(tmp_path / "second", other, config_of())
    drawn, earlier = trainer.model.state_dict()["item_inputs.content_map.weight"].clone(), Earlier.open(bundle)
    go_on(trainer, other, earlier)
    assert torch.equal(trainer.model.state_dict()["item_inputs.content_map.weight"], drawn)
    name = "item_inputs.side_embeddings.0.weight"
    assert torch.equal(trainer.model.state_dict()[name], earlier.weights[name])
    said = capsys.readouterr().out
    assert "its content lies in another space: the weights that read it are drawn anew" in said
    assert "it keeps no moments of the optimiser (train.keep_optimizer)" in said
    # Without moments the step sizes warm up: from a third of the whole.
    assert trainer.schedule.get_last_lr()[0] == pytest.approx(0.01 / 3)


def test_other_towers_other_ids_other_bundles_and_names_that_move_are_refused(make_inputs: Make, tmp_path: Path) -> None:
    inputs = make_inputs()
    bundle, _ = trained(tmp_path / "first", inputs, config_of(epochs=1))
    wider = trainer_of(tmp_path / "wider", inputs, config_of(model={"dim": 16, "hidden": 16, "history_dropout": 0.2}))
    with pytest.raises(ConfigError) as refused:
        go_on(wider, inputs, Earlier.open(bundle))
    assert str(refused.value) == (
        f"train.warm_start = {bundle.uri}: its towers are others. Set back, or train in full:\n  train.model.dim: 8 there, 16 here"
    )
    bundle.facts["id_map"]["digest"] = "another"  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"its rows are not those of the items and users of .*Set prepare\.previous"):
        go_on(trainer_of(tmp_path / "same", inputs, config_of()), inputs, Earlier.open(bundle))
    with pytest.raises(ConfigError, match=r"is a bundle of the shards stage, not of train\.$"):
        Earlier.open(inputs["shards"])
    Path(bundle.data_uri.removeprefix("file://"), FILE).unlink()
    with pytest.raises(BundleError, match=r"has no training\.pt: it was trained before training state was kept"):
        Earlier.open(bundle)
    with pytest.raises(ConfigError, match=r"name a version, as in models:/NAME/3"):
        config_of(warm_start="models:/shop@champion")


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 6), more=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_grown_weights_begin_with_the_old_ones_bit_for_bit(rows: int, more: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def state(count: int) -> dict[str, Tensor]:
        table, layer = "item_inputs.id_embedding.weight", "item_layers.layers.0.weight"
        return {table: torch.randn(count, 3, generator=generator), layer: torch.randn(2, 3, generator=generator)}

    old, new = state(rows), state(rows + more)
    found = grow_weights(old, new)
    assert all(torch.equal(found[name][: len(old[name])], old[name]) for name in old)
    table = "item_inputs.id_embedding.weight"
    assert torch.equal(found[table][rows:], new[table][rows:])
    shrunk = {**new, table: new[table][: rows - 1]}
    with pytest.raises(ValueError, match=table):
        grow_weights(old, shrunk)


@settings(deadline=None, max_examples=30)
@given(groups=st.lists(st.integers(-1, 3), min_size=2, max_size=12), data=st.data(), seed=st.integers(0, 2**31))
def test_a_new_item_takes_the_mean_of_what_its_cluster_knows(groups: list[int], data: st.DataObject, seed: int) -> None:
    known = data.draw(st.integers(1, len(groups)))
    table = torch.randn(len(groups), 3, generator=torch.Generator().manual_seed(seed))
    before, group = table.clone(), torch.tensor(groups)
    placed = place_new_items(table, known, group)
    assert torch.equal(table[:known], before[:known])
    count = 0
    for item in range(known, len(groups)):
        alike = [other for other in range(known) if groups[other] == groups[item] >= 0]
        expected = before[alike].mean(0) if alike else before[item]
        torch.testing.assert_close(table[item], expected)
        count += bool(alike)
    assert placed == count
    _, sizes = means_of_groups(before, group, 4)
    assert sizes.sum() == (group >= 0).sum()
