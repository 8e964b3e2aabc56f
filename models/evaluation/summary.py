"""A contest as numbers with intervals, ready for JSON, and as tables for people."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.evaluation.bootstrap import Estimate, Paired, gap_recovered
from models.evaluation.contest import CEILING, DISTILLED, FLOOR, STUDENT, Contest

__all__ = ["over_logs", "summary", "text"]


def summary(found: Contest) -> dict[str, Any]:
    """The contest's models, differences and recovered gap, each with its 95 % interval. JSON values only."""
    seeds = len(next(iter(found.models.values())).auc)
    users = Paired(seeds, found.user_weights)
    queries = Paired(seeds, np.ones(found.queries))
    gauc = {name: users.estimate(np.stack(model.user_auc)) for name, model in found.models.items()}
    models = {}
    for name, model in found.models.items():
        hits = {metric: _interval(queries.estimate(np.stack(rows))) for metric, rows in sorted(model.hits.items())}
        models[name] = {
            "gauc": _interval(gauc[name]),
            "gauc_of_seeds": [_rounded(np.average(each, weights=found.user_weights)) for each in model.user_auc],
            "auc": _rounded(np.mean(model.auc)),
            **hits,
            "parameters": model.parameters,
            "online_multiply_adds": model.online_multiply_adds,
        }
    cost = {name: model.online_multiply_adds for name, model in found.models.items()}
    width = _difference(gauc[CEILING] - gauc[FLOOR])
    return {
        **found.log,
        "users_with_auc": len(found.user_weights),
        "models": models,
        "truth_gauc": None if found.truth is None else _rounded(found.truth),
        "gap_recovered": _gap(gauc, STUDENT, width),
        "gap_recovered_distilled": _gap(gauc, DISTILLED, width),
        "aif_minus_two_tower": _difference(gauc[STUDENT] - gauc[FLOOR]),
        "ranker_minus_two_tower": width,
        "ranker_minus_aif": _difference(gauc[CEILING] - gauc[STUDENT]),
        "distilled_minus_aif": _difference(gauc[DISTILLED] - gauc[STUDENT]),
        "cost_share_of_ranker": _rounded(cost[STUDENT] / cost[CEILING]),
    }


def over_logs(logs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `aif evaluate --json` prints: the smallest recovered gap, the logs that have no gap, and each log."""
    gaps = {name: log["gap_recovered"]["value"] for name, log in logs.items()}
    known = [gap for gap in gaps.values() if gap is not None]
    return {
        "gap_recovered": min(known, default=None),
        "without_a_gap": [name for name, gap in gaps.items() if gap is None],
        "logs": logs,
    }


def text(found: dict[str, Any]) -> str:
    """The results of `over_logs` as Markdown."""
    gap = "not defined" if found["gap_recovered"] is None else f"{found['gap_recovered']:.2f}"
    if found["without_a_gap"]:
        gap += f"; without a gap to recover: {', '.join(found['without_a_gap'])}"
    parts = [
        f"# Evaluation\n\nThe smallest recovered gap over the logs is {gap}. Printed by `aif evaluate`; docs/model.md "
        "defines every figure.\n"
    ]
    for name, log in found["logs"].items():
        parts.append(
            f"## {name}\n\nMade by `{log['command']}` in {log['minutes']} minutes ({log['machine']}). "
            f"{log['train_examples']:,} examples trained on, {log['judged_candidates']:,} candidates judged "
            f"({log['judged_positives']:,} positive; negatives: {log['negatives']}), {log['users_with_auc']:,} users "
            f"with an AUC, {log['queries']} queries over {log['query_candidates']:,} items.\n"
        )
        parts += [_models(log), _differences(log)]
    return "\n".join(parts)


def _models(log: dict[str, Any]) -> str:
    metrics = [name for name in next(iter(log["models"].values())) if name.startswith("hr")]
    metrics.sort(key=lambda name: (name.endswith("clicks"), len(name)))
    lines = [
        "| model | GAUC (95 %) | AUC | "
        + " | ".join(_title(name) for name in metrics)
        + " | parameters | online MACs |",
        "|---|---|---|" + "---|" * len(metrics) + "---|---|",
    ]
    for name, model in log["models"].items():
        gauc = model["gauc"]
        cells = [f"{gauc['value']:.4f} ({gauc['low']:.4f} to {gauc['high']:.4f})", f"{model['auc']:.4f}"]
        cells += [f"{model[metric]['value']:.3f}" for metric in metrics]
        cells += [f"{model['parameters']:,}", f"{model['online_multiply_adds']:,}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if log["truth_gauc"] is not None:
        lines.append(f"| the true chances | {log['truth_gauc']:.4f} |" + " |" * (len(metrics) + 3))
    return "\n".join(lines) + "\n"


def _differences(log: dict[str, Any]) -> str:
    lines = ["| difference of GAUC | value (95 %) | smallest detectable |", "|---|---|---|"]
    for name in ("aif_minus_two_tower", "ranker_minus_two_tower", "ranker_minus_aif", "distilled_minus_aif"):
        each = log[name]
        lines.append(f"| {name.replace('_', ' ')} | {_span(each, '+.4f')} | {each['smallest_detectable']:.4f} |")
    gaps = ("gap_recovered", "gap_recovered_distilled")
    lines += [f"| {name.replace('_', ' ')} | {_span(log[name], '.2f')} | |" for name in gaps]
    lines.append(f"| online cost of AIF, of the ranker's | {100 * log['cost_share_of_ranker']:.1f} % | |")
    return "\n".join(lines) + "\n"


def _gap(gauc: dict[str, Estimate], model: str, width: dict[str, float | None]) -> dict[str, float | None]:
    """The recovered gap; None where the ceiling is not above the floor with 95 %, and there is none to recover."""
    if width["low"] is None or width["low"] <= 0:
        return {"value": None, "low": None, "high": None}
    return _interval(gap_recovered(gauc[model], gauc[FLOOR], gauc[CEILING]))


def _title(metric: str) -> str:
    cutoff, _, against = metric.removeprefix("hr").partition("_")
    return f"HR@{cutoff} {against}"


def _span(each: dict[str, Any], form: str) -> str:
    if each["value"] is None:
        return "not defined"
    return f"{each['value']:{form}} ({each['low']:{form}} to {each['high']:{form}})"


def _interval(estimate: Estimate) -> dict[str, float | None]:
    if not np.isfinite(estimate.draws).any():
        return {"value": _rounded(estimate.value), "low": None, "high": None}
    return {name: _rounded(getattr(estimate, name)) for name in ("value", "low", "high")}


def _difference(estimate: Estimate) -> dict[str, float | None]:
    return {**_interval(estimate), "smallest_detectable": _rounded(estimate.smallest_detectable)}


def _rounded(value: float | np.floating[Any]) -> float | None:
    """Six digits; None where there is no number (JSON has no nan)."""
    return round(float(value), 6) if np.isfinite(value) else None
