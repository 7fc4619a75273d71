"""Verdicts in words: the figure that decided, and the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lat.claims.rules import DEFAULT, FAILS, HOLDS, NOT_JUDGED, UNDECIDED, VERDICTS, Comparison, Decided, Part
from lat.measured import LABELS, WORST_CASE

IN_A_SENTENCE = {**LABELS, "clean": "clean", WORST_CASE: "worst case"}
"""The tables' columns, as `lat.measured.LABELS`, inside a sentence."""
BY_RULE = "by the rule on diverged seeds, not by a test"


def words(verdict: str) -> str:
    return verdict.replace("_", " ")


def points(value: float, places: int = 1) -> str:
    """Points with a sign, a true minus."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _places(found: Part) -> int:
    """Printed numbers differ by whole hundredths of a point; a mean over seeds is told to a tenth."""
    return 1 if found.pairs else 2


def part(found: Part, level: float) -> str:
    """ "−12.3 points (95 % −14.0 to −10.6), 3 seeds"; without interval where there is none; what diverged, where that
    decides.
    """
    if found.difference is None or found.by_rule:
        return found.reason or absent([found.missing])
    out = f"{points(found.difference, _places(found))} points"
    if found.low is not None and found.high is not None:
        out += f" ({100 * level:g} % {points(found.low)} to {points(found.high)})"
    if found.pairs:
        out += f", {seeds(found)}"
        if found.lost and found.verdict in (HOLDS, FAILS):  # of an undecided one the reason is told behind the figure
            out += f" since {found.reason}"
    for entry in found.mcnemar if found.pairs == 1 else ():
        out += f", McNemar's p {probability(entry.p)}{f' ({entry.ahead} ahead)' if entry.ahead else ''}"
    if found.pairs > 1 and found.mcnemar:
        ahead = Counter(entry.ahead for entry in found.mcnemar)
        mine, other = ahead["subject"], ahead["reference"]
        out += f", McNemar: subject ahead in {mine} of {len(found.mcnemar)}, reference in {other}"
    return out


def seeds(found: Part) -> str:
    """How many seeds a difference is of; of how many, where one row or the other diverged in some."""
    count = f"{found.pairs} of {found.pairs + found.lost}" if found.lost else str(found.pairs)
    return f"{count} seed{'s' if found.pairs + found.lost > 1 else ''}"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def corrected(p: float, claims: int) -> str:
    return f"Holm's p {probability(p)} over {claims} claim{'s' if claims > 1 else ''}"


def absent(labels: Iterable[str]) -> str:
    return f"no figures of {', '.join(dict.fromkeys(labels))}"


def figure(decided: Decided | None, level: float) -> str:
    """The figure on which a verdict turned, with the two rows and the column."""
    if decided is None:
        return ""
    comparison, found = decided
    return f"{part(found, level)}: {comparison.subject} − {comparison.reference}, {IN_A_SENTENCE[found.column]}"


def brief(decided: Decided | None) -> dict[str, str]:
    """The same figure in the fewest words, `brief` "−12.3", and what a table has under it, `below` "−14.0 to −10.6"."""
    shown = {"short": "", "below": ""} if decided is None else cell(decided[1])
    return {"brief": shown["short"], "below": shown["below"]}


def cell(found: Part) -> dict[str, str]:
    """A part as a table shows it: the difference, and under it the interval or what else there is to say."""
    if found.by_rule:
        return {"short": "diverged", "below": found.reason}
    if found.difference is None:
        return {"short": "", "below": found.reason or absent([found.missing])}
    below = seeds(found) if found.pairs == 1 else ""
    if found.low is not None and found.high is not None:
        below = f"{points(found.low)} to {points(found.high)}" + (f", {seeds(found)}" if found.lost else "")
    elif found.mcnemar:
        below += f", p {', '.join(probability(entry.p) for entry in found.mcnemar)}"
    return {"short": points(found.difference, _places(found)), "below": below}


def counted(comparisons: Sequence[Comparison]) -> str:
    """How many of a claim's figures have which verdict: "of 30 figures 28 hold, 2 fail"."""
    return shares([found.verdict for comparison in comparisons for found in comparison.parts], "figure")


def shares(verdicts: Sequence[str], noun: str) -> str:
    """How many of them have which verdict, in words."""
    counts, verbs = Counter(verdicts), {"holds": ("holds", "hold"), "fails": ("fails", "fail")}
    named = [
        f"{counts[verdict]} {verbs[verdict][counts[verdict] > 1] if verdict in verbs else words(verdict)}"
        for verdict in VERDICTS
        if counts[verdict]
    ]
    return f"of {len(verdicts)} {noun}{'s' if len(verdicts) > 1 else ''} {', '.join(named)}"


def why(verdict: str, comparisons: Sequence[Comparison]) -> str:
    """Why a claim is undecided or not judged: its figures' reasons, the most frequent first, and the rows missing."""
    parts = [found for comparison in comparisons for found in comparison.parts]
    missing = [found.missing for found in parts if found.missing]
    wanted = (NOT_JUDGED,) if verdict == NOT_JUDGED else (NOT_JUDGED, UNDECIDED)
    reasons = Counter(found.reason for found in parts if found.verdict in wanted and found.reason)
    return "; ".join([reason for reason, _ in reasons.most_common()] + ([absent(missing)] if missing else []))


def members(verdicts: Mapping[str, str]) -> str:
    """The members of a conjunction by verdict, the failing ones by name."""
    failing = [member for member, verdict in verdicts.items() if verdict == "fails"]
    return shares(list(verdicts.values()), "claim") + (f" ({', '.join(failing)})" if failing else "")


def place(found: Mapping[str, Any]) -> str:
    """Scale and reading, the default reading unnamed."""
    return str(found["scale"]) + ("" if found["reading"] == DEFAULT else f", {found['reading']}")


def doubted(doubts: Sequence[str]) -> str:
    """What the audits say against the figures of a place; empty where they say nothing."""
    return f"the audit speaks against the gradients of {', '.join(doubts)}" if doubts else ""


def added(when: Mapping[str, Any]) -> str:
    """That a claim was not there from the start: since when, and what was known then."""
    return f"added {when['date']}, {'after' if when['measured'] else 'before'} its rows were measured"


def groups(claims: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The claims that are counted together: the paper's about figures, single and joined; of theory; this project's."""
    listed = list(claims)
    return {
        "figures": [c for c in listed if c["origin"] == "paper" and c["kind"] in ("empirical", "conjunction")],
        "theory": [c for c in listed if c["kind"] == "theory"],
        "project": [c for c in listed if c["origin"] == "project"],
    }


def counts(claims: Iterable[Mapping[str, Any]], side: str) -> dict[str, int]:
    """How many claims have which verdict on `side`, "reported" or "measured"."""
    found = Counter(claim[side]["verdict"] for claim in claims)
    return {verdict: found[verdict] for verdict in VERDICTS}


def counts_by_place(claims: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many claims have which verdict at each scale and in each reading where one was judged, in the run's order."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for place in (place for claim in claims for place in claim["measured"]["by"]):
        found.setdefault((place["scale"], place["reading"]), Counter())[place["verdict"]] += 1
    return [
        {"scale": scale, "reading": reading, "verdicts": {verdict: counted[verdict] for verdict in VERDICTS}}
        for (scale, reading), counted in found.items()
        if counted.total() > counted[NOT_JUDGED]
    ]
