"""The trial of a challenger: champion and challenger opened, judged over the window, every gate read."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from dataclasses import dataclass

from esans.bundle import Bundle
from esans.progress import say
from esans.retrain.base import Base
from esans.retrain.contender import Contender, opened
from esans.retrain.gates import CHALLENGER, CHAMPION, Verdict, absolute, against_champion, index_recall, sane_vectors
from esans.retrain.judge import judge
from esans.retrain.window import TABLE, window_days, write_window
from esans.settings import Settings
from esans.spark import open_session


@dataclass(frozen=True)
class Trial:
    """What was found."""

    verdicts: list[Verdict]
    by_day: dict[str, dict[str, float]]
    """Contender -> day -> recall."""


def trial(settings: Settings, bundles: dict[str, Bundle], base: Base | None, as_of: datetime.date, folder: str) -> Trial:
    """Judge the challenger of the export bundle.

    Args:
        settings: of the run.
        bundles: of the run, by stage.
        base: the champion; None where there is none, and only the absolute gates count.
        as_of: last day of the window.
        folder: URI below which the window is written.
    """
    from esans.export.vectors import read_item_ids
    from esans.retrieval.encode import pick_device
    from esans.retrieval.evaluation import Catalogue

    gate, prepare, export = settings.retrain.gate, bundles["prepare"], bundles["export"]
    device = pick_device(settings.evaluate.launch.device, "evaluate.launch.device")
    spark, days = open_session(settings.spark, "esans"), window_days(as_of, settings.retrain.window_days)
    window = write_window(spark, prepare, settings.prepare, days, gate.max_users, settings.seed, folder)
    catalogue, item_ids = Catalogue.read(prepare), read_item_ids(prepare)
    with ExitStack() as stack:
        sides = {CHALLENGER: export} | ({CHAMPION: Bundle.open(base.bundles["export"])} if base is not None else {})
        contenders: list[Contender] = [stack.enter_context(opened(name, side, item_ids, prepare, device)) for name, side in sides.items()]
        challenger = contenders[0]
        verdicts = [*sane_vectors(challenger.vectors_ND[challenger.known_N.to(device)], "item"), index_recall(export.figures, gate)]
        if any(one.passed is False for one in verdicts[:-1]):
            return Trial(verdicts, {})
        batch, chunk = settings.evaluate.user_batch, settings.evaluate.item_chunk
        found = judge(window.table(TABLE), days, contenders, catalogue, gate, user_batch=batch, item_chunk=chunk, device=device)
    verdicts += absolute(found, int(catalogue.available.sum()), gate)
    if base is not None:
        verdicts += against_champion(found, gate, settings.seed)
    for one in verdicts:
        if one.passed is not None or one.users:
            mark = {True: "passed", False: "REFUSED", None: "shown"}[one.passed]
            say(f"  gate {mark}: {one.describe()}" + (f"; champion {one.champion:.4g}" if one.champion == one.champion else ""))
    by_day = {name: found.by_day(name, "recall") for name in found.judged} if len(found.users) else {}
    return Trial(verdicts, by_day)
