"""Sentences that a prompt is put into before a text tower reads it, in the prompt's own language."""

from __future__ import annotations

import re

from lang_splat_ns.errors import UserError

PHRASE = ("{}",)
"""The prompt as it stands, which is what LERF and LangSplat do."""

ENSEMBLES = {
    "en": ("{}", "a photo of {}.", "a photo of a {}.", "a close-up of the {}.", "a cropped photo of the {}."),
    "zh": ("{}", "一张{}的照片。", "{}的照片。", "{}的特写。", "一张{}的局部照片。"),
}
"""Language -> sentences whose unit vectors are averaged (Radford et al. 2021, CLIP, section 3.1.4)."""

CHOICES = ("phrase", "ensemble")

_CHINESE = re.compile("[\u3400-\u9fff]")


def is_chinese(text: str) -> bool:
    """Whether a text has Chinese characters."""
    return _CHINESE.search(text) is not None


def checked_choice(choice: str) -> str:
    """The choice itself.

    Raises:
        UserError: it is none of `CHOICES`.
    """
    if choice not in CHOICES:
        raise UserError(f"prompt templates {choice!r}: take {' or '.join(CHOICES)}")
    return choice


def sentences(text: str, choice: str) -> list[str]:
    """What is embedded for a prompt: itself, or with "ensemble" the sentences around it."""
    templates = PHRASE if choice == "phrase" else ENSEMBLES["zh" if is_chinese(text) else "en"]
    return [template.replace("{}", text) for template in templates]
