"""Recommendations made ahead of time. No stage of the pipeline: `esans recommend` runs it where it is wanted."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from esans.errors import ConfigError
from esans.progress import say
from esans.recommend.config import RecommendConfig
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from esans.bundle import Bundle, BundleWriter
    from esans.recommend.parts import Counts
    from esans.recommend.served import Served

_REQUESTS, _TABLE = "requests", "recommendations"


class Recommend(Stage):
    """The best items of every user, or of a list of users, without what they have seen, as Parquet."""

    name: ClassVar[str] = "recommend"
    code_version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("prepare",)
    config: RecommendConfig

    @classmethod
    def inputs_for(cls, config: RecommendConfig) -> tuple[str, ...]:
        """The trained model of the configuration, and its export for the index, unless a registered model is named."""
        if config.model is not None:
            return cls.inputs
        return ("prepare", "train", "export") if config.search == "index" else ("prepare", "train")

    @classmethod
    def outside_inputs(cls, config: RecommendConfig) -> dict[str, Any]:
        """The list of users."""
        from esans.recommend.requests import list_fingerprint

        return {"users": list_fingerprint(config.users)} if config.users is not None else {}

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Table `recommendations`: user_id, user_idx, item_ids, scores, fallback, known_user.

        Part files are written where they stay, in an attempt of a fixed name: a run that was killed goes on behind the last of them.
        """
        if self.config.model is not None and "@" in self.config.model:
            raise ConfigError(f"recommend.model = {self.config.model!r} must be a version here; `esans recommend` looks an alias up.")
        out.attempt = f"attempt-{out.fingerprint}"
        wanted = self._requests(inputs["prepare"], out)
        started = time.time()
        with ExitStack() as stack:
            served = self._served(inputs, stack)
            counts = self._write(wanted, served, out)
        out.adopt(_TABLE)
        out.report({"users": counts.users, "users_unknown": counts.unknown, "users_without_history": counts.without_history})
        out.report({"users_with_fewer_items": counts.short, "users_per_second": counts.users / max(time.time() - started, 1e-9)})
        out.state({"k": self.config.k, "search": self.config.search, "model": self.config.model or inputs["train"].uri})
        say(
            f"  {counts.users:,} users: {counts.unknown:,} unknown and {counts.without_history:,} without a history got the most popular "
            f"items; {counts.short:,} got fewer than {self.config.k}"
        )
        self._clear(wanted)

    def _requests(self, prepare: Bundle, out: BundleWriter) -> Bundle:
        """Users with their histories, as a bundle aside: made once, also where the work is killed and goes on."""
        from esans.bundle import Bundle, BundleWriter
        from esans.progress import spark_step
        from esans.recommend.requests import requests
        from esans.uri import join

        uri = join(out.scratch_uri, _REQUESTS)
        found = Bundle.find(uri)
        if found is None:
            aside = BundleWriter(uri, _REQUESTS, out.fingerprint)
            with spark_step(self.context.spark, "users and histories"):
                aside.write(_REQUESTS, requests(self.context.spark, prepare, self.config))
            found = aside.finish(code_version=self.code_version, config={}, inputs={})
        return found

    def _served(self, inputs: Inputs, stack: ExitStack) -> Served:
        from esans.recommend.registered import served_folder
        from esans.recommend.served import Served
        from esans.retrieval.encode import pick_device

        device, by_index = pick_device(self.config.device, "recommend.device"), self.config.search == "index"
        if self.config.model is not None:
            folder = stack.enter_context(served_folder(self.config.model, self.context.run.tracking_uri))
            return Served.of_folder(inputs["prepare"], folder, not by_index, device)
        model = stack.enter_context(inputs["train"].local("model"))
        index = stack.enter_context(inputs["export"].local("retriever")) if by_index else None
        return Served.of_bundles(inputs["prepare"], model, index, device)

    def _write(self, wanted: Bundle, served: Served, out: BundleWriter) -> Counts:
        from esans.progress import Bar
        from esans.recommend.parts import Counts, Parts, recommended
        from esans.recommend.requests import chunks
        from esans.retrieval.encode import pick_device
        from esans.uri import join

        config, counts, kept = self.config, Counts(), 0
        device = pick_device(config.device, "recommend.device")
        table, parts = wanted.table(_REQUESTS), Parts(join(out.data_uri, _TABLE))
        with Bar("recommendations", table.rows, "users") as bar:
            for number, rows in chunks(table):
                done = parts.read(number)
                if done is None:
                    done = recommended(rows, served, config.k, config.user_batch, config.item_chunk, device)
                    parts.write(number, done)
                else:
                    kept += done.num_rows
                counts.add(done, config.k)
                bar.update(counts.users)
        if kept:
            say(f"  {kept:,} users were done before, by a run that did not end")
        return counts

    def _clear(self, wanted: Bundle) -> None:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(wanted.uri)
        filesystem.rm(path, recursive=True)
