"""The pages quality.html and clusters.html: self-contained, for light and dark, with every word from the data escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esans.cluster.browse import Selection, ShownPrimary
    from esans.cluster.captions import Caption
    from esans.cluster.pictures import CurvePoint

_GROUPS = {
    "Sizes": ("primaries", "secondaries", "cells", "utilisation.", "entropy_ratio", "gini", "largest", "smallest", "unassigned."),
    "Repairs": ("repair.",),
    "Hard pools": ("hard_pool.",),
    "What belongs together": ("coherence.", "category.", "stability."),
    "Draws": ("transition.", "false_negatives.", "hardness.", "curve."),
}


def safe(text: object) -> str:
    """Text to stand in HTML, in attributes too."""
    return html.escape(str(text), quote=True)


def quality_page(
    figures: Mapping[str, float], plots: Mapping[str, str], curve: Sequence[CurvePoint], notes: Sequence[str], broken: Sequence[str]
) -> str:
    """quality.html.

    Args:
        figures: the report.
        plots: caption -> SVG.
        curve: false negatives against hardness over T_c.
        notes: sentences on what was measured and what was not.
        broken: lines of the gate; none where it is open.
    """
    drawn = "".join(f"<figure><figcaption>{safe(name)}</figcaption>{svg}</figure>" for name, svg in plots.items())
    gate = "<p class='good'>Every bound of cluster.gate holds.</p>"
    if broken:
        gate = f"<div class='bad'><strong>The quality gate is shut.</strong><pre>{safe(chr(10).join(broken))}</pre></div>"
    said = "".join(f"<p>{safe(note)}</p>" for note in notes)
    body = f"{gate}{said}<h2>Pictures</h2><div class='figures'>{drawn}</div>{_curve_table(curve)}<h2>Figures</h2>{_tables(figures)}"
    return _PAGE.format(title="Quality of the clusters", other="<a href='clusters.html'>Browse the clusters</a>", body=body, style=_style())


def clusters_page(
    chosen: Selection, captions: Mapping[int, Caption], shares: Mapping[int, Sequence[tuple[str, float]]], temperature: float, about: str
) -> str:
    """clusters.html.

    Args:
        chosen: primaries and items to show.
        captions: item_idx -> title and the like, for every item of `chosen`.
        shares: c1 -> commonest categories with their shares; empty without a category.
        temperature: T_c in force.
        about: a sentence on sample and sizes.
    """
    blank = "<i class='none'></i>" if any(caption.image for caption in captions.values()) else ""
    cards = "".join(_card(shown, chosen, captions, shares.get(shown.c1, ()), blank) for shown in chosen.primaries)
    intro = (
        f"<p>{safe(about)} Segments of a bar are the cells of a primary, by size. p is the chance that an easy draw goes there first, "
        f"at T<sub>c</sub> = {temperature:g}. A click on an item shows what would be drawn as its negatives.</p>"
    )
    body = f"{intro}{_EXPLORER}<h2>{len(chosen.primaries)} primary clusters, largest first</h2><div class='cards'>{cards}</div>"
    data = f"<script type='application/json' id='data'>{_json(_data(chosen, captions))}</script><script>{_read('browse.js')}</script>"
    other = "<a href='quality.html'>Figures and plots</a>"
    return _PAGE.format(title="What the clusters hold", other=other, body=body + data, style=_style())


def _card(shown: ShownPrimary, chosen: Selection, captions: Mapping[int, Caption], shares: Sequence[tuple[str, float]], blank: str) -> str:
    bar = "".join(
        f"<i style='flex-grow:{count};--tone:{18 + (place * 37) % 55}%' title='cell {c2}: {count:,} items'></i>"
        for place, (c2, count) in enumerate(shown.cells)
    )
    kinds = "".join(f"<span class='chip'>{safe(kind)} <b>{share:.0%}</b></span>" for kind, share in shares)
    items = "".join(f"<li>{_item(item, chosen, captions, blank)}</li>" for item in shown.items)
    near = "".join(
        f"<tr><th>{other.c1}</th><td>{other.size:,}</td><td>{other.probability:.3f}</td>"
        f"<td class='titles'>{' · '.join(safe(captions[item].title) for item in other.items)}</td></tr>"
        for other in shown.nearest
    )
    return (
        f"<article id='c{shown.c1}'><h3>Primary {shown.c1} <small>{shown.size:,} items in {len(shown.cells)} cells</small></h3>"
        f"<div class='bar'>{bar}</div>{f'<p>{kinds}</p>' if kinds else ''}<ul class='items'>{items}</ul>"
        f"<details><summary>Nearest primaries</summary><table class='near'><thead><tr><th>c1</th><th>items</th><th>p</th>"
        f"<th>some of its items</th></tr></thead><tbody>{near}</tbody></table></details></article>"
    )


def _item(item: int, chosen: Selection, captions: Mapping[int, Caption], blank: str) -> str:
    caption = captions[item]
    picture = f"<img src='{safe(caption.image)}' alt='' loading='lazy'>" if caption.image else blank
    return (
        f"<button data-item='{item}' title='{safe(caption.item_id)}: {safe(caption.title)}'>{picture}<span>{safe(caption.title)}</span>"
        f"<em>{chosen.codes[item][1]}</em></button>"
    )


def _data(chosen: Selection, captions: Mapping[int, Caption]) -> dict[str, object]:
    items = {}
    for item, (c1, c2) in chosen.codes.items():
        caption = captions[item]
        known = {"category": caption.category, "image": caption.image}
        items[item] = {"title": caption.title, "id": caption.item_id, "c1": c1, "c2": c2} | {k: v for k, v in known.items() if v}
    pairs = {item: {"easy": _rounded(shown.easy), "hard": _rounded(shown.hard)} for item, shown in chosen.items.items()}
    return {"items": items, "negatives": pairs}


def _rounded(pairs: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(item, round(cosine, 3)) for item, cosine in pairs]


def _json(value: object) -> str:
    # Inside a script element only "<" could end it, or open a comment; U+2028 and 2029 are escaped by json.
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _curve_table(curve: Sequence[CurvePoint]) -> str:
    if not curve:
        return ""
    rows = "".join(
        f"<tr><th>{point.temperature:g}</th><td>{point.ratio:.2f}</td><td>{point.hardness:.3f}</td><td>{point.effective:,.1f}</td></tr>"
        for point in sorted(curve, key=lambda point: point.temperature)
    )
    heads = "<tr><th>T<sub>c</sub></th><th>false negatives / uniform</th><th>mean score</th><th>effective primaries</th></tr>"
    return f"<h2>Easy draws over T<sub>c</sub></h2><div class='scroll'><table><thead>{heads}</thead><tbody>{rows}</tbody></table></div>"


def _tables(figures: Mapping[str, float]) -> str:
    shown, result = set(), ""
    for title, starts in _GROUPS.items():
        names = [name for name in figures if name.startswith(starts) and name not in shown]
        result += _figure_table(title, names, figures)
        shown |= set(names)
    return f"<div class='tables'>{result}{_figure_table('Others', [name for name in figures if name not in shown], figures)}</div>"


def _figure_table(title: str, names: Sequence[str], figures: Mapping[str, float]) -> str:
    rows = "".join(f"<tr><th>{safe(name)}</th><td>{figures[name]:.5g}</td></tr>" for name in names)
    return f"<section><h3>{safe(title)}</h3><table><tbody>{rows}</tbody></table></section>" if names else ""


def _read(name: str) -> str:
    # Not by path: on a cluster the package may be a zip file.
    return resources.files("esans.cluster").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    return _read("page.css")


_EXPLORER = """<h2>Negatives of an item</h2><div class='explorer'><div class='pick'>
<input id='find' type='search' placeholder='Search the items shown' aria-label='Search the items shown'>
<select id='list' size='12' aria-label='Items'></select></div><div id='found'></div></div>"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<header><h1>{title}</h1>{other}</header>
{body}
</body></html>
"""
