"""Every claim's verdict: the comparisons joined, Holm's procedure over each family, conjunctions, the joint verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lat.claims import reported, text, theory
from lat.claims.measured import Source
from lat.claims.rules import (
    DEFAULT,
    FAILS,
    FAVOURABLE,
    HOLDS,
    NOT_JUDGED,
    READINGS,
    UNDECIDED,
    Comparison,
    deciding,
    join,
    join_p,
)
from lat.claims.significance import holm
from lat.measured import Scale

Claim = Mapping[str, Any]
Place = tuple[str, str]  # scale, reading
FIGURE = ("text", "brief", "below")  # the figure that decided a verdict: in words, in fewest words, its interval
NO_FIGURE = dict.fromkeys(FIGURE, "")


@dataclass(frozen=True)
class Joined:
    """A claim's comparisons at one place, joined, before Holm's procedure."""

    claim: Claim
    scale: Scale
    reading: str
    comparisons: list[Comparison]
    verdict: str
    p_holds: float
    p_fails: float

    @property
    def family(self) -> tuple[str, ...]:
        return self.claim["family"], self.scale.name, self.reading


def judge(
    claims: Sequence[Claim], source: Source, equations: Mapping[str, Any] | None, notice: str
) -> list[dict[str, Any]]:
    """Every claim in the file's order with its two verdicts, plain values for programs and for the report."""
    printed = {claim["id"]: _reported(claim, source) for claim in claims}
    places = {} if notice else _empirical(claims, source)
    scales = {scale.name: scale for scale in source.plan.scales}
    found: dict[str, dict[str, Any]] = {}
    for claim in sorted(claims, key=lambda claim: claim["kind"] == "conjunction"):
        name = claim["id"]
        if claim["kind"] == "conjunction":
            printed[name] = _conjunction_reported(claim, printed)
            found[name] = _conjunction_measured(claim, found, scales)
        elif claim["kind"] == "theory":
            found[name] = theory.judge(claim, equations) | {"by": []}
        elif claim["kind"] == "empirical":
            found[name] = _nothing(notice) if notice else _joint(claim, places[name])
        else:
            found[name] = _nothing(claim["reason"])
    return [
        {
            "id": claim["id"],
            "claim": " ".join(str(claim["paraphrase"]).split()),
            "kind": claim["kind"],
            "origin": claim["origin"],
            "added": claim.get("added"),
            "source": claim["source"],
            "rule": _rule(claim),
            "reported": printed[claim["id"]],
            "measured": found[claim["id"]],
        }
        for claim in claims
    ]


def _rule(claim: Claim) -> dict[str, Any] | None:
    """How the figures of an empirical claim are judged; None for the other kinds."""
    keys = ("columns", "quantifier", "over_comparisons", "direction", "margin", "test", "family")
    return {key: claim[key] for key in keys} if claim["kind"] == "empirical" else None


def _shown(comparisons: Sequence[Comparison], level: float) -> list[dict[str, Any]]:
    """The comparisons as plain values, each part with its words."""
    return [
        asdict(comparison)
        | {"parts": [asdict(part) | {"text": text.part(part, level)} | text.cell(part) for part in comparison.parts]}
        for comparison in comparisons
    ]


def _nothing(reason: str) -> dict[str, Any]:
    reason = " ".join(str(reason).split())
    return {"verdict": NOT_JUDGED, **NO_FIGURE, "reason": reason, "depends_on": [], "by": []}


def _reported(claim: Claim, source: Source) -> dict[str, Any]:
    if claim["kind"] == "theory":
        return _silent("judged by the equation ledger")
    if "reason" in claim:
        return _silent(" ".join(claim["reason"].split()))
    if claim["kind"] != "empirical" or "reported" not in claim["judged_on"]:
        return _silent("the paper prints no such figures")
    comparisons = reported.compare(claim, source.printed, source.rules)
    verdict = join(claim["over_comparisons"], [comparison.verdict for comparison in comparisons])
    decided = deciding(claim, verdict, comparisons)
    return {
        "verdict": verdict,
        "text": text.figure(decided, source.rules.level),
        **text.brief(decided),
        "reason": text.counted(comparisons),
        "comparisons": _shown(comparisons, source.rules.level),
    }


def _silent(reason: str) -> dict[str, Any]:
    return {"verdict": NOT_JUDGED, **NO_FIGURE, "reason": reason, "comparisons": []}


def _empirical(claims: Sequence[Claim], source: Source) -> dict[str, list[dict[str, Any]]]:
    """The places of every claim that is judged on measured figures, Holm's procedure done."""
    joined: list[Joined] = []
    for claim in claims:
        if claim["kind"] != "empirical" or "measured" not in claim["judged_on"]:
            continue
        readings = claim.get("readings", READINGS if source.printed.has_favourable(claim) else (DEFAULT,))
        for scale in source.scales(claim):
            joined += [_joined(claim, source, scale, reading) for reading in readings]
    families: dict[tuple[str, ...], list[Joined]] = {}
    for entry in joined:
        if source.asked(entry.claim, entry.scale, entry.reading):
            families.setdefault(entry.family, []).append(entry)
    adjusted: dict[int, tuple[float, int]] = {}
    for members in families.values():
        smallest = holm([min(entry.p_holds, entry.p_fails) for entry in members])
        adjusted |= {id(entry): (p, len(members)) for entry, p in zip(members, smallest, strict=True)}
    found: dict[str, list[dict[str, Any]]] = {claim["id"]: [] for claim in claims}
    for entry in joined:
        found[entry.claim["id"]].append(_place(entry, *adjusted.get(id(entry), (1.0, 0)), source))
    return found


def _joined(claim: Claim, source: Source, scale: Scale, reading: str) -> Joined:
    comparisons = source.compare(claim, scale, reading)
    verdict = join(claim["over_comparisons"], [comparison.verdict for comparison in comparisons])
    p_holds, p_fails = join_p(
        claim["over_comparisons"],
        [comparison.p_holds for comparison in comparisons],
        [comparison.p_fails for comparison in comparisons],
    )
    return Joined(claim, scale, reading, comparisons, verdict, p_holds, p_fails)


def _place(entry: Joined, p_adjusted: float, family_size: int, source: Source) -> dict[str, Any]:
    """The verdict at one place. Holm's procedure takes back what the intervals alone would have given."""
    kept = entry.verdict not in (HOLDS, FAILS) or p_adjusted <= source.rules.alpha
    verdict = entry.verdict if kept else UNDECIDED
    decided = deciding(entry.claim, entry.verdict, entry.comparisons)
    if not kept:
        reason = f"{entry.verdict} by the intervals alone; {text.corrected(p_adjusted, family_size)}"
    elif verdict in (UNDECIDED, NOT_JUDGED):
        reason = text.why(verdict, entry.comparisons)
    else:
        tested = decided is None or not decided[1].by_rule
        how = text.corrected(p_adjusted, family_size) if tested else text.BY_RULE
        reason = f"{text.counted(entry.comparisons)}; {how}"
    return {
        "scale": entry.scale.name,
        "width": entry.scale.width,
        "reading": entry.reading,
        "verdict": verdict,
        "text": text.figure(decided, source.rules.level),
        **text.brief(decided),
        "reason": reason,
        "by_intervals": entry.verdict,
        "p_holds": entry.p_holds,
        "p_fails": entry.p_fails,
        "p_adjusted": p_adjusted,
        "family": entry.claim["family"],
        "family_size": family_size,
        "complete": all(part.verdict != NOT_JUDGED for pair in entry.comparisons for part in pair.parts),
        "doubts": list(dict.fromkeys(doubt for pair in entry.comparisons for doubt in pair.doubts)),
        "comparisons": _shown(entry.comparisons, source.rules.level),
    }


def _joint(claim: Claim, places: list[dict[str, Any]]) -> dict[str, Any]:
    """One verdict over all places: theirs, where those that are judged agree; undecided otherwise."""
    if not places:
        tables = ", ".join(claim["source"]["tables"])
        return _nothing(f"the run has no scale for table {tables}" if tables else "the run has no scale for its tables")
    judged = [place for place in places if place["verdict"] != NOT_JUDGED]
    verdicts = {place["verdict"] for place in judged}
    if not judged:
        return _nothing(places[0]["reason"]) | {"by": places}  # the default reading's
    verdict = verdicts.pop() if len(verdicts) == 1 else UNDECIDED
    depends = _depends(claim, judged)
    reason = "; ".join(f"{place['verdict']} at {text.place(place)}" for place in judged)
    figures = {key: judged[0][key] if verdict != UNDECIDED or len(judged) == 1 else "" for key in FIGURE}
    return {"verdict": verdict, **figures, "reason": reason, "depends_on": depends, "by": places}


def _depends(claim: Claim, judged: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the verdict depends on: `scale` where it holds at one and fails at another in one reading; `reading` where
    a claim of the paper fails in the default one and not in the favourable one, at one scale. A favourable reading that
    is undecided since some of its rows are missing shows no such dependence.
    """
    at = {(place["scale"], place["reading"]): place["verdict"] for place in judged}
    spared = {
        place["scale"]
        for place in judged
        if place["reading"] == FAVOURABLE
        and (place["verdict"] == HOLDS or (place["verdict"] == UNDECIDED and place["complete"]))
    }
    names = dict.fromkeys(scale for scale, _ in at)
    found = []
    if any({HOLDS, FAILS} <= {at.get((scale, reading)) for scale in names} for reading in READINGS):
        found.append("scale")
    if claim["origin"] == "paper" and any(at.get((scale, DEFAULT)) == FAILS for scale in spared):
        found.append("reading")
    return found


def _conjunction_reported(claim: Claim, printed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    members = {member: printed[member]["verdict"] for member in claim["members"]}
    return {
        "verdict": join("all", list(members.values())),
        "text": "",
        "brief": text.shares(list(members.values()), "claim"),
        "reason": text.members(members),
        "members": members,
        "comparisons": [],
    }


def _conjunction_measured(
    claim: Claim, found: Mapping[str, Mapping[str, Any]], scales: Mapping[str, Scale]
) -> dict[str, Any]:
    """Joint: over the members' joint verdicts. At a place: over their verdicts there; a member that is judged in the
    default reading alone stands in the favourable one with that verdict, since its rows stay the same there.
    """
    at = {
        member: {(place["scale"], place["reading"]): str(place["verdict"]) for place in found[member]["by"]}
        for member in claim["members"]
    }
    keys: list[Place] = [
        (scale, reading)
        for scale in scales
        for reading in READINGS
        if any((scale, reading) in verdicts for verdicts in at.values())
    ]
    places = []
    for scale, reading in keys:
        here = {
            member: verdicts.get((scale, reading), verdicts.get((scale, DEFAULT), NOT_JUDGED))
            for member, verdicts in at.items()
        }
        usual = {member: verdicts.get((scale, DEFAULT), NOT_JUDGED) for member, verdicts in at.items()}
        places.append(
            {
                "scale": scale,
                "width": scales[scale].width,
                "reading": reading,
                "verdict": join("all", list(here.values())),
                "text": "",
                "brief": text.shares(list(here.values()), "claim"),
                "reason": text.members(here),
                "complete": all(here[name] != NOT_JUDGED or usual[name] == NOT_JUDGED for name in here),
                "members": here,
                "comparisons": [],
            }
        )
    members = {member: str(found[member]["verdict"]) for member in claim["members"]}
    judged = [place for place in places if place["verdict"] != NOT_JUDGED]
    return {
        "verdict": join("all", list(members.values())),
        "text": "",
        "brief": text.shares(list(members.values()), "claim"),
        "reason": text.members(members),
        "depends_on": _depends(claim, judged),
        "members": members,
        "by": places,
    }
