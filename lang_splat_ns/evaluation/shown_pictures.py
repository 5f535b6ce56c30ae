"""Which pictures a report shows: all runs' answers to one question side by side, as many as a page may hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lang_splat_ns.evaluation.comparison import Unit
from lang_splat_ns.evaluation.pictures import Picture, UnitPictures


@dataclass(frozen=True)
class PicturedUnit:
    """One question about one photo, and what each run answered.

    Attributes:
        prompt: what was asked.
        frame: name of the photo.
        photo: the photo.
        truth: what is there, or None for an absent prompt.
        answers: one per run, in the order of the runs.
    """

    prompt: str
    frame: str
    photo: Picture
    truth: Picture | None
    answers: tuple[UnitPictures, ...]

    @property
    def size(self) -> int:
        """Bytes that the unit's pictures take on the page."""
        shown = [self.photo, self.truth, *(one for answer in self.answers for one in (answer.relevancy, answer.mask))]
        return sum(len(picture.uri) for picture in shown if picture is not None)


@dataclass(frozen=True)
class ShownPictures:
    """Pictures by prompt, and how many units found no room."""

    present: dict[str, list[PicturedUnit]]
    absent: dict[str, list[PicturedUnit]]
    left_out: int


def choose_pictures(runs: Sequence[Sequence[UnitPictures]], units: Collection[Unit], room: int) -> ShownPictures:
    """Choose what is shown: one photo of every prompt, then a second one, and so on as long as there is room.

    Absent prompts come after the present ones, those in which some run found something first.

    Args:
        runs: the pictures of each run.
        units: the units that may be shown; a unit without a picture of every run is not.
        room: bytes that all pictures may take together.
    """
    found = _pictured(runs, units)
    order = _in_turn([one for one in found if one.truth is not None])
    absent = [one for one in found if one.truth is None]
    order += _in_turn([one for one in absent if not _all_rejected(one)])
    order += _in_turn([one for one in absent if _all_rejected(one)])
    shown: list[PicturedUnit] = []
    taken = 0
    for one in order:
        taken += one.size
        if taken > room:
            break
        shown.append(one)
    return ShownPictures(
        _by_prompt([one for one in shown if one.truth is not None]),
        _by_prompt([one for one in shown if one.truth is None]),
        len(order) - len(shown),
    )


def _pictured(runs: Sequence[Sequence[UnitPictures]], units: Collection[Unit]) -> list[PicturedUnit]:
    by_unit = [{(one.row["frame"], one.row["prompt"]): one for one in run} for run in runs]
    found = []
    for unit, first in by_unit[0].items() if by_unit else ():
        if unit in units and all(unit in run for run in by_unit):
            frame, prompt = unit
            found.append(PicturedUnit(prompt, frame, first.photo, first.truth, tuple(run[unit] for run in by_unit)))
    return found


def _in_turn(units: Sequence[PicturedUnit]) -> list[PicturedUnit]:
    """The first unit of every prompt, then the second of every prompt, and so on."""
    groups = list(_by_prompt(units).values())
    longest = max(map(len, groups), default=0)
    return [group[number] for number in range(longest) for group in groups if number < len(group)]


def _by_prompt(units: Sequence[PicturedUnit]) -> dict[str, list[PicturedUnit]]:
    groups: dict[str, list[PicturedUnit]] = {}
    for one in units:
        groups.setdefault(one.prompt, []).append(one)
    return groups


def _all_rejected(one: PicturedUnit) -> bool:
    return all(answer.row["rejected"] for answer in one.answers)
