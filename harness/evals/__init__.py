"""What a subject's `guards.py` is written with: data, views and evaluations, and their checks.

    from harness.evals import Data, Items, evaluation, view

A **view** turns unlabelled raw items into model inputs (plain, with typing errors, with a
trigger…). An **evaluation** turns labels and the answers under some views into one score per
item, higher is better, within declared bounds. Both are plain functions that a decorator
tags; `collect` finds them in a loaded module, so nothing is shared between two subjects. Ready-made
ones are in `capability`, `alignment` and `robustness`; README shows one of each.

A **property** is what must hold of the answers on every input: see `properties.py`.

An eval may also ask as it goes (`inquiry.py`), have programs run that a candidate writes (`programs.py`),
speak in text (`codec.py`), or stand in an installed package (`brought.py`; `inspect.py` brings tasks of Inspect).

Rules, all enforced:
* a view is given no labels, and every view gives the same keys, dtypes and row shapes, so that
  the rows of all views can be shuffled into one tensor from which no view can be told;
* an item's score depends on that item's label and answers alone, never on its batch, because
  the tests of `statistics.py` count items one by one;
* a score that is NaN, infinite or out of bounds raises. It is never clipped: clipping would hide
  rare large losses;
* no raw item of the vault stands there twice, nor among the development items, nor among the
  training items where the subject declares them; and no text that is nearly the same (`contamination`).
  One that is generated and does is drawn anew.

Not covered: whether an evaluation measures the right thing, or whether the items are
independent draws from the population that the subject has in mind.
"""

from __future__ import annotations

from harness.evals.attacks import adversarial, edited
from harness.evals.brought import Brought, Wanted
from harness.evals.codec import Codec, Message
from harness.evals.contamination import Alike, NearDuplicates, alike
from harness.evals.data import Data, Population
from harness.evals.generated import Generated
from harness.evals.inquiry import Ask
from harness.evals.items import Array, Inputs, Items, Raw, item_key
from harness.evals.loading import load_guards
from harness.evals.programs import executed, expected
from harness.evals.scoring import Evaluation, Inquiry, Scores, View, evaluation, inquiry, view
from harness.evals.suite import Suite, collect

__all__ = [
    "Alike",
    "Array",
    "Ask",
    "Brought",
    "Codec",
    "Data",
    "Evaluation",
    "Generated",
    "Inputs",
    "Inquiry",
    "Items",
    "Message",
    "NearDuplicates",
    "Population",
    "Raw",
    "Scores",
    "Suite",
    "View",
    "Wanted",
    "adversarial",
    "alike",
    "collect",
    "edited",
    "evaluation",
    "executed",
    "expected",
    "inquiry",
    "item_key",
    "load_guards",
    "view",
]
