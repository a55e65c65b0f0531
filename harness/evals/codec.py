"""Text in and out of a model of tensors: how an eval that speaks in messages is put to a candidate.

A subject whose evals speak so declares one `Codec` in its `guards.py`:

    chat = Codec(encode=rows_of_messages, decode=texts_of_answers)

The candidate itself sees tensors only. What it answers may be logits over words that the codec knows (a classifier),
or token ids as float32, exact up to 2**24, padded with -1 (a model that writes): `decode` is where they become text.
Both functions are the subject's trusted code, and a candidate cannot change them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from harness.errors import EvaluatorError, SubjectError
from harness.evals.items import Array, Inputs, rows_of


class Message(TypedDict):
    """One message of a conversation: who says it (`system`, `user`, `assistant`, `tool`), and the text."""

    role: str
    content: str


@dataclass(frozen=True)
class Codec:
    """`encode` turns conversations into model inputs, a row each; `decode` answers [rows, *output] into a text each."""

    encode: Callable[[Sequence[Sequence[Message]]], Inputs]
    decode: Callable[[Array], Sequence[str]]

    def row(self, conversation: Sequence[Message]) -> dict[str, Array]:
        """One conversation as one row of inputs. SubjectError where `encode` raises or gives anything else."""
        try:
            inputs = self.encode([conversation])
        except SubjectError:
            raise
        except Exception as error:
            raise SubjectError(
                f"the codec's encode raised {type(error).__name__}: {error}", where="guards.py"
            ) from error
        rows = rows_of(inputs, "what the codec's encode gave")
        if rows != 1:
            raise SubjectError(f"the codec's encode gave {rows} rows for one conversation", where="guards.py")
        return dict(inputs)

    def text(self, answer: Array) -> str:
        """The text of one answer [1, *output]. EvaluatorError where it cannot be told: nothing is scored then."""
        try:
            texts = self.decode(answer)
        except Exception as error:
            raise EvaluatorError(
                f"an answer cannot be decoded: {type(error).__name__}: {error}",
                where="guards.py",
                remedy="answers are what the codec's decode reads: see harness/evals/codec.py",
            ) from error
        if not isinstance(texts, (list, tuple)) or len(texts) != 1 or not isinstance(texts[0], str):
            raise EvaluatorError(
                "the codec's decode gave something else than one text for one answer", where="guards.py"
            )
        return texts[0]
