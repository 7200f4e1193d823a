"""One cell of the experiment: a method on a data set. Tuned by successive halving on validation, then its seeds on the test split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from benchmarks.methods.cost import steps_within
from benchmarks.methods.fit import Fit, Tested, keep_ranks
from benchmarks.methods.protocol import PROTOCOL, epochs_paid
from benchmarks.methods.space import Defaults, Suggest, Trial, Values
from benchmarks.methods.store import WITHIN_WALL, Row, Store
from esans.bundle import Bundle
from esans.config import flatten, merge
from esans.negatives.tables import Catalogue
from esans.progress import say
from esans.tracking import TrackingConfig, start_run

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class Cell:
    """A method on a data set, with what is shared by all cells of that data set."""

    dataset: str
    method: str
    space: Callable[[Suggest], Values]
    inputs: Mapping[str, Bundle]
    store: Store
    work: Path
    trials: int
    files: dict[str, Any] = field(default_factory=dict)
    catalogue: Catalogue | None = None
    """In place of the catalogue of the bundles, where an ablation changes the clusters."""

    def run(self, seeds: int) -> None:
        """Whatever of the cell is not in the store yet."""
        missing = [seed for seed in range(seeds) if self.store.find(self.key("seed", f"s{seed}")) is None]
        if not missing:
            return
        values = self.winner()
        cost = self.cost(values)
        for seed in missing:
            self.seed(values, seed, cost)

    def key(self, phase: str, *rest: str) -> str:
        """Name of a run in the store."""
        return "/".join([PROTOCOL["version"], phase, self.dataset, self.method, *rest])

    def fit(self, values: Values, seed: int, wall_steps: float = float("inf")) -> Fit:
        """A run that has not begun."""
        shared = {**PROTOCOL["train"], "epochs": self.epochs}
        return Fit(self.inputs, merge(shared, values), seed, wall_steps, self.files, self.catalogue)

    @property
    def epochs(self) -> int:
        """Most epochs of a run on this data set."""
        return int(PROTOCOL["epochs"][self.dataset])

    def winner(self) -> Values:
        """The trial with the best validation recall: from the store, or tuned now."""
        done = self.store.find(self.key("tune", "winner"))
        return dict(done["params"]) if done is not None else self._tune()

    def _tune(self) -> Values:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=PROTOCOL["tuning_seed"]))
        values = [self.space(Defaults()), *(self.space(Trial(study.ask())) for _ in range(self.trials - 1))]
        fits = {number: self.fit(keys, PROTOCOL["tuning_seed"]) for number, keys in enumerate(values)}
        alive = list(fits)
        for rung, (share, left) in enumerate([*PROTOCOL["halving"], [1.0, 1]]):
            started, epochs = time.time(), round(share * self.epochs)
            best = {number: fits[number].advance(epochs) for number in alive}
            for number in alive:
                self._keep_trial(fits[number], values[number], number, rung)
            alive = sorted(alive, key=lambda number: -best[number])[:left]
            for number in set(fits) - set(alive):
                del fits[number]
            told = ", ".join(f"{number}: {best[number]:.4f}" for number in sorted(best))
            say(f"{self.dataset} {self.method}: {epochs} epochs, validation recall@50 of trials {told} ({time.time() - started:.0f} s)")
        winner = alive[0]
        row = self._row(fits[winner], "tune", values[winner], PROTOCOL["tuning_seed"]) | {"trial": winner, "trials": self.trials}
        self.store.append({"key": self.key("tune", "winner"), **row})
        return values[winner]

    def _keep_trial(self, fit: Fit, values: Values, number: int, rung: int) -> None:
        key = self.key("tune", f"t{number}", f"r{rung}")
        # A tuning that was killed begins again, and finds the rows of its first trials there.
        if self.store.find(key) is None:
            row = self._row(fit, "tune", values, PROTOCOL["tuning_seed"])
            self.store.append({"key": key, **row, "trial": number, "rung": rung})
            self._log(f"{self.dataset}-{self.method}-trial{number}-rung{rung}", row, fit)

    def cost(self, values: Values) -> float:
        """Steps of the method in the time in which `uniform` trains `wall_epochs`; the seconds of a step are kept."""
        key = self.key("cost", "step")
        done = self.store.find(key)
        if done is None:
            seconds, uniform = steps_within(lambda keys: self.fit(keys, 0), values)
            row = self._bare("cost", values, 0) | {"seconds_per_step": seconds, "uniform_seconds_per_step": uniform}
            self.store.append({"key": key, **row})
            done = self.store.find(key) or row
        return epochs_paid(done) * (PROTOCOL["train"]["examples_per_epoch"] // PROTOCOL["train"]["batch_size"])

    def seed(self, values: Values, seed: int, wall_steps: float) -> None:
        """One seed of the winner, measured on the test split."""
        fit = self.fit(values, seed, wall_steps)
        fit.advance(self.epochs)
        tested, within, key = fit.test(), fit.test_within_wall(), self.key("seed", f"s{seed}")
        keep_ranks(self.store, key, tested)
        row = self._row(fit, "seed", values, seed) | {"test": tested.row()}
        if within is not None:
            keep_ranks(self.store, key + WITHIN_WALL, within[1])
            row["wall"] = {"epoch": within[0], **within[1].row()}
        self.store.append({"key": key, **row})
        self._log(f"{self.dataset}-{self.method}-seed{seed}", row, fit)
        say(_told(self, seed, row, tested))

    def variant(self, phase: str, name: str, values: Values, seed: int) -> None:
        """One run of an ablation or a study, unless it is in the store; `values` may have epochs of their own."""
        key = self.key(phase, name, f"s{seed}")
        if self.store.find(key) is not None:
            return
        fit = self.fit(values, seed)
        fit.advance(values.get("epochs", self.epochs))
        tested = fit.test()
        keep_ranks(self.store, key, tested)
        row = self._row(fit, phase, values, seed) | {"test": tested.row(), "variant": name if phase in ("ablation", "controls") else ""}
        self.store.append({"key": key, **row})
        self._log(f"{self.dataset}-{self.method}-{name}-seed{seed}", row, fit)
        say(_told(self, seed, row, tested))

    def _bare(self, phase: str, values: Values, seed: int) -> Row:
        shared = {"protocol": PROTOCOL["version"], "date": time.strftime("%Y-%m-%d"), "variant": "", "trial": None, "rung": None}
        return shared | {"phase": phase, "dataset": self.dataset, "method": self.method, "params": values, "seed": seed, "test": None}

    def _row(self, fit: Fit, phase: str, values: Values, seed: int) -> Row:
        records, best, diagnosis = fit.trainer.progress.records, fit.best, fit.diagnosis()
        return self._bare(phase, values, seed) | {
            "epochs": len(records),
            "best_epoch": fit.trainer.progress.best_epoch,
            "steps": fit.trainer.progress.step,
            "examples": fit.trainer.progress.step * PROTOCOL["train"]["batch_size"],
            "validation": {name: best[name] for name in ("recall@50", "recall@200")},
            "encodings_per_example": diagnosis["encodings_per_example"],
            "train_seconds": sum(record["seconds"] for record in records),
            "diagnosis": diagnosis,
            "curve": [
                {"steps": record["step"], **{name: record[name] for name in ("epoch", "loss", "recall@50", "recall@200")}}
                for record in records
            ],
        }

    def _log(self, name: str, row: Row, fit: Fit) -> None:
        uri = f"sqlite:///{self.work.resolve() / 'mlflow.db'}"
        tracking = TrackingConfig(uri=uri, experiment="methods", system_metrics=False)
        with start_run(tracking, str(self.work), name) as run:
            run.tag(dataset=self.dataset, method=self.method, phase=row["phase"], protocol=PROTOCOL["version"], variant=row["variant"])
            run.params(flatten({"train": merge(PROTOCOL["train"], row["params"]), "seed": row["seed"]}))
            for step, metrics in fit.logged:
                run.metrics(metrics, step)
            for record in row["curve"]:
                run.metrics({f"validation_{name}": record[name] for name in ("recall@50", "recall@200")}, record["steps"])
            run.metrics({f"test_{name}": value for name, value in (row["test"] or {}).items()}, row["steps"])


def _told(cell: Cell, seed: int, row: Row, tested: Tested) -> str:
    recalls = f"test recall@50 {tested.means['recall@50']:.4f}, @200 {tested.means['recall@200']:.4f}"
    return f"{cell.dataset} {cell.method} {row['variant']} seed {seed}: {recalls}, best of {row['epochs']} epochs {row['best_epoch'] + 1}"
