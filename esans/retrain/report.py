"""The report of a run as one HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from esans.uri import write_text

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b00020;font-weight:600}.good{color:#1b6e3c}.none{color:#888}
pre{white-space:pre-wrap;background:#f6f6f6;padding:.8em}"""
_MARKS = {True: ("good", "passed"), False: ("bad", "refused"), None: ("none", "shown")}


def write_page(uri: str, document: Mapping[str, Any]) -> None:
    """Write the page of a report as `esans.retrain.run` makes it."""
    write_text(uri, page(document))


def page(document: Mapping[str, Any]) -> str:
    """The page as text."""
    facts = {
        "outcome": document["outcome"],
        "model": document["model"],
        "method": document["method"],
        "how": f"{document['mode']}: {document['why']}" if document["mode"] else "",
        "champion before": document["champion_before"] or "none",
        "champion now": document["champion"] or "none",
        "seconds": ", ".join(f"{name} {value:g}" for name, value in document["seconds"].items()),
        "MLflow run": document["mlflow_run_id"] or "",
    }
    title = f"Retraining of {document['model']} as of {document['as_of']}: {document['outcome']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        f"<pre>{escape(document['message'])}</pre>",
        _table(("", ""), ([escape(name), escape(str(value))] for name, value in facts.items() if value)),
    ]
    if document["by_day"]:
        parts.append(f'<h2>Recall by day of the window</h2><img alt="recall by day" src="{_plot(document["by_day"])}">')
    if document["gates"]:
        parts.append("<h2>Gates</h2>" + _table(_GATE_HEAD, (_gate(one) for one in document["gates"])))
    if document["drift"]:
        parts.append("<h2>Data</h2>" + _table(_DRIFT_HEAD, (_finding(one) for one in document["drift"])))
    if document["bundles"]:
        parts.append("<h2>Bundles</h2>" + _table(("stage", "URI"), ([escape(n), escape(u)] for n, u in document["bundles"].items())))
    return "\n".join(parts)


_GATE_HEAD = ("", "figure", "challenger", "champion", "interval of the difference", "users", "wanted", "key")
_DRIFT_HEAD = ("", "table", "column", "figure", "value", "allowed", "key")


def _gate(one: Mapping[str, Any]) -> list[str]:
    interval = f"{one['low']:+.4f} .. {one['high']:+.4f}" if one["low"] is not None else ""
    return [
        _mark(one),
        escape(one["what"]),
        _number(one["value"]),
        _number(one["champion"]),
        interval,
        str(one["users"] or ""),
        escape(one["bound"]),
        escape(f"retrain.gate.{one['key']}"),
    ]


def _finding(one: Mapping[str, Any]) -> list[str]:
    return [
        _mark(one),
        escape(one["table"]),
        escape(one["column"]),
        escape(one["what"]),
        _number(one["value"]),
        escape(one["bound"]),
        escape(one["key"]),
    ]


def _mark(one: Mapping[str, Any]) -> str:
    kind, word = _MARKS[one["passed"]]
    return f"<span class={kind}>{word}</span>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(name)}" for name in head)
    return f"<table><tr>{top}" + "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows) + "</table>"


def _plot(by_day: Mapping[str, Mapping[str, float]]) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, days in by_day.items():
        axes.plot([day[5:] for day in days], list(days.values()), marker="o", label=name)
    axes.set_ylabel("recall")
    axes.tick_params(axis="x", rotation=45)
    axes.legend()
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
