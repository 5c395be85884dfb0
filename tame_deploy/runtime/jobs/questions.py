"""Which classes a record says were explained: a run that is resumed must ask the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["RecordedQuestion", "question_of"]


@dataclass(frozen=True)
class RecordedQuestion:
    """What was explained of a picture.

    Attributes:
        class_ids: the explained classes, in order.
        likeliest: of each, whether it is as likely as the class of its rank.
        versus: the class that each was contrasted with, or None.
    """

    class_ids: tuple[int, ...]
    likeliest: tuple[bool, ...]
    versus: int | None

    def answers(
        self, class_ids: Sequence[int] | None, top_k: int | None, versus: int | None
    ) -> bool:
        """Return whether these classes may be what was asked for, as of `resolve_class_ids`."""
        asked = [-1] * (top_k or 1) if class_ids is None else list(class_ids)
        return (
            versus == self.versus
            and len(asked) == len(self.class_ids)
            and all(
                ranked if wanted == -1 else wanted == found
                for wanted, found, ranked in zip(asked, self.class_ids, self.likeliest, strict=True)
            )
        )

    def __str__(self) -> str:
        against = "no --versus" if self.versus is None else f"--versus {self.versus}"
        if all(self.likeliest):
            return f"--top-k {len(self.class_ids)}, {against}"
        return f"{' '.join(f'--class-id {one}' for one in self.class_ids[:5])}, {against}"


def question_of(record: dict[str, Any]) -> RecordedQuestion:
    """Return which classes a record says were explained; it must have some."""
    explained = record["explained"]
    top = [score["probability"] for score in record.get("top") or ()]
    # By probabilities, not by ids, since equals may be ranked in either order. Beyond the recorded
    # ones, there is no telling.
    likeliest = tuple(
        place >= len(top) or one["probability"] == top[place] for place, one in enumerate(explained)
    )
    other = explained[0].get("versus")
    return RecordedQuestion(
        tuple(one["class_id"] for one in explained),
        likeliest,
        None if other is None else other["class_id"],
    )
