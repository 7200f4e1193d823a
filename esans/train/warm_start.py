"""Training that goes on from an earlier model: weights, moments, temperature and samplers as they were, for a catalogue that has grown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer

from esans.bundle import Bundle
from esans.columns import ITEM_IDX, PRIMARY, UNASSIGNED
from esans.config import flatten, to_dict
from esans.errors import ConfigError
from esans.lineage import SIDE, feature_spaces, grew_from, id_map_of, space_of
from esans.model.grow import ITEM_TABLES, grow_weights, grown, is_table, place_new_items
from esans.model.sharded import ShardedTable, sharded_tables
from esans.progress import say
from esans.train.kept import Kept, names_of, parts_of

if TYPE_CHECKING:
    from esans.train.trainer import Trainer

# What changes how the towers are trained, not what they are.
_FREE = ("tables", "history_dropout")
_AFRESH = {"content": "content_map.", "side": "side_embeddings."}


def facts_of(inputs: Mapping[str, Bundle]) -> dict[str, Any]:
    """What a train bundle tells those who go on from it: id maps, and the spaces that its inputs lie in."""
    return {"id_map": id_map_of(inputs["prepare"]), "spaces": {"content": space_of(inputs["align"]), SIDE: _side(inputs["features"])}}


def ancestry(inputs: Mapping[str, Bundle]) -> dict[str, Any]:
    """Facts that tell how far a model is from a full training: `warm_start` (URI or None), `warm_starts` in a row, and `full`, which says
    of the last full training where its interactions ended, and its numbers of items and users.
    """
    if "previous" in inputs:
        earlier = inputs["previous"]
        full = earlier.facts.get("full")
        return {"warm_start": earlier.uri, "warm_starts": int(earlier.facts.get("warm_starts", 0)) + 1, "full": full}
    known = inputs["prepare"].facts
    full = {"until": known.get("until"), "items": known["num_items"], "users": known["num_users"]}
    return {"warm_start": None, "warm_starts": 0, "full": full}


def _side(features: Bundle) -> str:
    return feature_spaces(features)[SIDE]


@dataclass(frozen=True)
class Earlier:
    """A train bundle to go on from."""

    bundle: Bundle
    kept: Kept
    weights: dict[str, Tensor]
    """State of its towers, on the host."""
    model: dict[str, Any]
    """Config and sizes of its towers."""

    @classmethod
    def open(cls, bundle: Bundle) -> Earlier:
        """Read it. Raises ConfigError where it is another stage's, BundleError where it keeps nothing."""
        if bundle.manifest["stage"] != "train":
            raise ConfigError(f"train.warm_start = {bundle.uri}: is a bundle of the {bundle.manifest['stage']} stage, not of train.")
        with bundle.local("model") as folder:
            weights = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)
            described = json.loads((folder / "model.json").read_text())
        return cls(bundle, Kept.read(bundle), weights, described)


def go_on(trainer: Trainer, inputs: Mapping[str, Bundle], earlier: Earlier) -> None:
    """Put what an earlier training has learned into a trainer that has not begun; the same on every rank.

    Rows of items and users keep their numbers and bits. The id row of a new item is the mean of its primary cluster's, those of new
    users are drawn, and their moments are 0. Weights that read vectors of another aligned space, or other side codes, are drawn anew.

    Args:
        trainer: new.
        inputs: bundles by stage.
        earlier: where to go on from.

    Raises:
        ConfigError: the towers are of another config or other sizes, or rows are other items and users.
    """
    _same_towers(trainer, inputs, earlier)
    afresh = _afresh(inputs, earlier)
    weights = _weights(trainer, inputs, earlier, afresh)
    _load(trainer, weights)
    moments = _load_moments(trainer, earlier, afresh)
    missed = _load_negatives(trainer, earlier.kept.negatives)
    trainer.progress.before = earlier.kept.epochs
    if moments:
        # The moments are warm: step sizes are the full ones from the first step on.
        trainer.start_schedule(trainer.config.optimizer.warmup_steps)
    if trainer.rank == 0:
        _tell(trainer, earlier, afresh, moments, missed)


def _same_towers(trainer: Trainer, inputs: Mapping[str, Bundle], earlier: Earlier) -> None:
    where = earlier.bundle.uri
    old, new = (
        {name: value for name, value in flatten(keys).items() if name not in _FREE}
        for keys in (earlier.model["config"], to_dict(trainer.model.config))
    )
    sizes, now = earlier.model["sizes"], dict[str, Any](trainer.model.sizes)
    lines = [
        f"  train.model.{key}: {old.get(key)!r} there, {new.get(key)!r} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    lines += [
        f"  {key}: {sizes[name]} there, {now[name]} here"
        for name, key in (("history_length", "shards.history_length"), ("content_dim", "length of the aligned vectors"))
        if sizes[name] != now[name]
    ]
    if len(sizes["side_sizes"]) != len(now["side_sizes"]):
        lines.append(f"  side columns: {len(sizes['side_sizes'])} there, {len(now['side_sizes'])} here")
    if lines:
        raise ConfigError("\n".join([f"train.warm_start = {where}: its towers are others. Set back, or train in full:", *lines]))
    id_map = earlier.bundle.facts.get("id_map")
    if not id_map or not grew_from(inputs["prepare"], id_map):
        raise ConfigError(
            f"train.warm_start = {where}: its rows are not those of the items and users of {inputs['prepare'].uri}, whose id maps did not "
            "grow from the ones that it was trained with. Set prepare.previous to the prepare bundle of that training, or train in full."
        )


def _afresh(inputs: Mapping[str, Bundle], earlier: Earlier) -> dict[str, str]:
    """Parts of the towers that read what means something else by now: what that is -> the beginning of their names."""
    then, now = earlier.bundle.facts["spaces"], facts_of(inputs)["spaces"]
    return {what: _AFRESH[what] for what in _AFRESH if then[what] != now[what]}


def _starts(afresh: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{inputs}.{part}" for part in afresh.values() for inputs in ("item_inputs", "history_inputs"))


def _weights(trainer: Trainer, inputs: Mapping[str, Bundle], earlier: Earlier, afresh: Mapping[str, str]) -> dict[str, Tensor]:
    """State of the grown towers with whole tables, on the host."""
    new = {name: value.cpu() for name, value in trainer.model.state_dict().items()}
    for name, table in sharded_tables(trainer.model).items():
        # Of a spread table only the new rows are drawn, the same on every rank.
        new[name] = torch.empty(table.num_embeddings, table.embedding_dim).normal_(std=0.3 / table.embedding_dim**0.5)
    weights = grow_weights(earlier.weights, new, _starts(afresh))
    if "cluster" in inputs and trainer.model.num_items > earlier.model["sizes"]["num_items"]:
        codes = inputs["cluster"].table("codes").dense(ITEM_IDX, PRIMARY, trainer.model.num_items, "int64", UNASSIGNED)
        for name in ITEM_TABLES:
            if name in weights:
                place_new_items(weights[name], earlier.model["sizes"]["num_items"], torch.from_numpy(codes))
    return weights


def _load(trainer: Trainer, weights: Mapping[str, Tensor]) -> None:
    tables = sharded_tables(trainer.model)
    trainer.model.load_state_dict({name: _own(value, tables.get(name)) for name, value in weights.items()})


def _own(value: Tensor, table: ShardedTable | None) -> Tensor:
    return value if table is None else value[table.first : table.end]


def _load_moments(trainer: Trainer, earlier: Earlier, afresh: Mapping[str, str]) -> bool:
    """Give every parameter the moments that it had, 0 in new rows; whether there were any."""
    if earlier.kept.moments is None:
        return False
    state = trainer.optimizer.state_dict()
    parts, parameters = parts_of(state), dict(trainer.module.named_parameters())
    tables = {f"model.{name}": table for name, table in sharded_tables(trainer.model).items()}
    skipped = tuple(f"model.{start}" for start in _starts(afresh))
    optimizers = getattr(trainer.optimizer, "parts", (trainer.optimizer,))
    for names, part, optimizer in zip(names_of(trainer.optimizer, trainer.module), parts, optimizers, strict=True):
        part["state"] = {
            place: _moments(earlier.kept.moments[name], parameters[name], tables.get(name), is_table(name))
            for place, name in enumerate(names)
            if name in earlier.kept.moments and not name.startswith(skipped)
        }
        _same_kind(part["state"], optimizer, earlier)
    trainer.optimizer.load_state_dict({"parts": parts} if "parts" in state else parts[0])
    return True


def _moments(kept: Mapping[str, Any], parameter: Tensor, table: ShardedTable | None, grows: bool) -> dict[str, Any]:
    found = {}
    shape = parameter.shape if table is None else torch.Size((table.num_embeddings, table.embedding_dim))
    for name, value in kept.items():
        if isinstance(value, Tensor) and value.dim() and grows:
            value = grown(value, value.new_zeros(shape))
            value = value if table is None else _own(value, table).flatten()
        found[name] = value
    return found


def _same_kind(state: Mapping[int, Mapping[str, Any]], optimizer: Optimizer, earlier: Earlier) -> None:
    """Refuse moments of another optimiser."""
    wanted = {"sum"} if isinstance(optimizer, Adagrad) else {"exp_avg", "exp_avg_sq"}
    for values in state.values():
        if not wanted <= set(values):
            raise ConfigError(
                f"train.warm_start = {earlier.bundle.uri}: its moments ({', '.join(values)}) are of another optimiser. "
                "Set train.optimizer.tables back, or train in full."
            )


def _load_negatives(trainer: Trainer, kept: Mapping[str, Any]) -> list[str]:
    """Temperature and buffers, where their shapes allow it; the names of those that start anew."""
    module = trainer.module.negatives
    new, found = module.state_dict(), dict[str, Any]()
    for name, value in new.items():
        was: Any = kept.get(name)
        if was is None:
            continue
        if not isinstance(value, Tensor) or was.shape == value.shape:
            found[name] = was
        elif name.endswith("_U") and len(was) < len(value):
            found[name] = grown(was, value)
        elif name.endswith("_N1") and len(was) < len(value):
            # The last place is a spare one.
            found[name] = grown(was[:-1], value)
    missed = [name for name in new if name not in found]
    module.load_state_dict({**new, **found})
    return missed


def _tell(trainer: Trainer, earlier: Earlier, afresh: Mapping[str, str], moments: bool, missed: list[str]) -> None:
    sizes, now = earlier.model["sizes"], trainer.model.sizes
    new_items, new_users = (now[name] - sizes[name] for name in ("num_items", "num_users"))
    say(f"  warm start after {earlier.kept.epochs} epochs of {earlier.bundle.uri}: {new_items:,} new items, {new_users:,} new users")
    if not moments:
        say("  it keeps no moments of the optimiser (train.keep_optimizer): they start from 0, and the step sizes warm up")
    for what in afresh:
        say(f"  its {what} lies in another space: the weights that read it are drawn anew")
    if missed:
        say(f"  starts anew: {', '.join(missed)}")
