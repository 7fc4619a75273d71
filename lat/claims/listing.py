"""What `lat claims` prints for a terminal of 80 columns: every claim in brief, or with all that is known of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from lat.claims import text
from lat.claims.rules import NOT_JUDGED

COLUMNS = 80
NAME, VERDICT = 28, 11  # columns of a brief line before the verdict, and before the figure
DOUBTED = "†"
TURNED = (
    "A number is the difference in points on which the verdict turned, the weakest where all rows and attacks must "
    "agree, with its interval, which is corrected neither for that choice nor for the number of claims; --full says of "
    "which rows and attack it is."
)
EXPLAINED = (
    f"{DOUBTED} A check of the audit, at the attacks' radius or a larger one and in one seed or more, speaks against "
    "the gradients of a row that is compared, so that its true accuracy may be lower; --full says which. No mark is no "
    "proof."
)
GROUPS = {
    "figures": ("of the paper's claims about figures", {"reported": "on its printed numbers", "measured": "measured"}),
    "theory": ("of its claims of theory", {"measured": "by the equation ledger"}),
    "project": ("of this project's own claims", {"measured": "measured"}),
}


def brief(claims: Sequence[Mapping[str, Any]]) -> str:
    """What each claim says, its two verdicts, and a line for each place where it was judged: the difference in points
    with its 95 % interval, and a mark where the audit speaks against a row's gradients.
    """
    out: list[str] = []
    for claim in claims:
        measured = claim["measured"]
        out += _head(claim) + _line("  reported", claim["reported"])
        places = [found for found in measured["by"] if found["verdict"] != NOT_JUDGED]
        if not places:
            out += _line("  measured", measured)
        else:
            out += _entry("  measured", text.words(measured["verdict"]), _depends(measured))
            out += [line for found in places for line in _line(f"    {text.place(found)}", found)]
        out.append("")
    places = [found for claim in claims for found in claim["measured"]["by"]]
    notes = [TURNED] * any(found["brief"] for found in places) + [EXPLAINED] * any(f.get("doubts") for f in places)
    out += [line for note in notes for line in (*textwrap.wrap(note, COLUMNS), "")]
    return "\n".join(out + _counts(claims))


def full(claims: Sequence[Mapping[str, Any]]) -> str:
    """The same with the rows and the column that decided, the tests, what is missing and what the audit found."""
    out: list[str] = []
    for claim in claims:
        out += _head(claim) + _paragraph("reported", claim["reported"])
        measured = claim["measured"]
        out += _paragraph("measured", measured, _depends(measured))
        silent: dict[str, list[str]] = {}
        for found in measured["by"]:
            if found["verdict"] == NOT_JUDGED:
                silent.setdefault(found["reason"], []).append(text.place(found))
            else:
                out += _paragraph(f"- {text.place(found)}", found)
        for reason, places in silent.items():
            out += _paragraph(f"- {'; '.join(places)}", {"verdict": NOT_JUDGED, "text": "", "reason": reason})
        out.append("")
    return "\n".join(out + _counts(claims))


def _head(claim: Mapping[str, Any]) -> list[str]:
    """Id, paraphrase, and since when it is there, where it came later."""
    name = claim["id"] + ("" if claim["origin"] == "paper" else f"  [{claim['origin']}]")
    words = textwrap.wrap(claim["claim"], COLUMNS, initial_indent="  ", subsequent_indent="  ")
    return [name, *words, *([f"  {text.added(claim['added'])}"] if claim["added"] else [])]


def _depends(measured: Mapping[str, Any]) -> str:
    return f"(depends on the {' and the '.join(measured['depends_on'])})" if measured["depends_on"] else ""


def _counts(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many claims of each group have which verdict, on each side on which it is judged."""
    out: list[str] = []
    for name, listed in text.groups(claims).items():
        title, sides = GROUPS[name]
        for side, how in sides.items() if listed else ():
            found = ", ".join(f"{n} {text.words(verdict)}" for verdict, n in text.counts(listed, side).items())
            out += textwrap.wrap(f"{title}, {how}: {found}", COLUMNS, subsequent_indent="  ")
    return out


def _line(name: str, found: Mapping[str, Any]) -> list[str]:
    """A verdict with its figure, and with Holm's p where that took back what the interval alone would have given; with
    its reason where it has no figure.
    """
    figure, below = found["brief"], found.get("below", "")
    if below:
        figure = below if figure in below else f"{figure} ({below})"  # "diverged" is told by "MLPo diverged (…)"
    if found.get("by_intervals", found["verdict"]) != found["verdict"]:
        figure += f", Holm's p {text.probability(found['p_adjusted'])}"
    mark = f" {DOUBTED}" if found.get("doubts") else ""
    return _entry(name, text.words(found["verdict"]), (figure or found["reason"]) + mark)


def _entry(name: str, verdict: str, rest: str) -> list[str]:
    head, column = f"{name:<{NAME}}{verdict}", NAME + VERDICT
    if not rest:
        return [head]
    return textwrap.wrap(rest, COLUMNS, initial_indent=f"{head:<{column}}", subsequent_indent=" " * column)


def _paragraph(name: str, found: Mapping[str, Any], note: str = "") -> list[str]:
    told = (found["text"], found["reason"], text.doubted(found.get("doubts", ())))
    said = "; ".join(entry for entry in told if entry)
    line = f"{name}: {text.words(found['verdict'])}{f' {note}' if note else ''}{'. ' if said else ''}{said}"
    return textwrap.wrap(line, COLUMNS, initial_indent="  ", subsequent_indent="      ", break_long_words=False)
