"""The tables that documents show of what narrow.py measured."""

from __future__ import annotations

from typing import Any

__all__ = ["cost_table", "filled", "summary_table", "width_table"]

SHARES = (100, 50, 15)
NAMES = {"squeezenet1_1": "SqueezeNet 1.1", "efficientnet_lite0": "EfficientNet-Lite0"}
#: What a row is called: of the head that the default recipe trains, "tame".
SUMMARY = {"C/16": "tame", "cam": "cam", "grad-cam": "grad-cam", "grad-cam++": "grad-cam++",
           "layercam": "layercam", "random": "random"}  # fmt: skip


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary_table(results: dict[str, Any]) -> str:
    """Return AD / IC of the default recipe's heads beside methods without training."""
    networks = [name for name in NAMES if name in results["quality"]]
    headings = ["method, AD ↓ / IC ↑"]
    headings += [f"{NAMES[name]}, {share} %" for name in networks for share in SHARES]
    best = {
        (name, share, kind): pick(
            results["quality"][name]["scores"][row][f"{kind}_{share}"][0] for row in SUMMARY
        )
        for name in networks
        for share in SHARES
        for kind, pick in (("average_drop", min), ("increase", max))
    }
    rows = []
    for row, shown in SUMMARY.items():
        cells = [shown]
        for name in networks:
            scores = results["quality"][name]["scores"][row]
            for share in SHARES:
                pair = []
                for kind in ("average_drop", "increase"):
                    mean = scores[f"{kind}_{share}"][0]
                    bold = "**" if mean == best[name, share, kind] else ""
                    pair.append(f"{bold}{mean:.1f}{bold}")
                cells.append(" / ".join(pair))
        rows.append(cells)
    return _table(headings, rows)


def width_table(results: dict[str, Any], network: str) -> str:
    """Return every width's scores with their 95 % intervals, and what needs no training."""
    headings = ["head"] + [
        title.format(share) for share in SHARES for title in ("AD {} % ↓", "IC {} % ↑")
    ]
    rows = []
    for label, scores in results["quality"][network]["scores"].items():
        cells = [
            "{:.1f} ({:.0f} to {:.0f})".format(*scores[f"{kind}_{share}"])
            for share in SHARES
            for kind in ("average_drop", "increase")
        ]
        rows.append([label, *cells])
    return _table(headings, rows)


def cost_table(results: dict[str, Any]) -> str:
    """Return fused over plain by width, a column a backbone, backend and batch."""
    rows = results["cost"]["rows"]
    columns = list(dict.fromkeys((one["backbone"], one["backend"], one["batch"]) for one in rows))
    widths = dict.fromkeys(one["width"] for one in rows if one["width"] != "plain")
    ratios = {
        (one["width"], (one["backbone"], one["backend"], one["batch"])): one["fused_over_plain"]
        for one in rows
    }
    cells = []
    for width in widths:
        found = [ratios.get((width, place)) for place in columns]
        cells.append([width, *("" if ratio is None else f"{ratio:.3f}" for ratio in found)])
    return _table(["head", *("{}, {}, batch {}".format(*place) for place in columns)], cells)


def filled(text: str, results: dict[str, Any]) -> str:
    """Return a document with the tables between its marks made anew."""
    tables = {"quick": summary_table(results)}
    tables |= {f"narrow-{name}": width_table(results, name) for name in results["quality"]}
    if "cost" in results:
        tables["narrow-cost"] = cost_table(results)
    for mark, table in tables.items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = before + begin + table + "\n" + end + rest.partition(end)[2]
    return text
