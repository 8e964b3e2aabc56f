"""What is done to a ranking before it is answered: checks of the scores, and declared business filters.

Filters are a small JSON file (`aif serve --filters FILE`), the same for every request::

    {"deny_items": [17, "sku-9"], "deny_categories": [3], "category_cap": 2, "minimum_price": 0.5}

A request may carry filters of its own. They can only tighten: lists are joined, of two caps the smaller holds, of two
prices the larger. Filters look at catalogue fields; an item without a price passes a minimum, one without a category
passes a cap, because nothing says that they break it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import BadInput, Corrupt
from serving.tables.items import Item
from serving.web.json_fields import entity_of, integer, kind_of, known_fields, number

__all__ = ["NO_FILTERS", "Filters", "check_scores"]

_FIELDS: Final = frozenset({"deny_items", "deny_categories", "category_cap", "minimum_price"})
_MOST_DENIED: Final = 100_000
#: Items read together: a ranking is walked only as far as it takes.
_AT_A_TIME: Final = 256
_MOST_CAP: Final = 10_001


@dataclass(frozen=True)
class Filters:
    """Rules that leave candidates out of a ranking."""

    deny_items: frozenset[int] = frozenset()
    deny_categories: frozenset[int] = frozenset()
    category_cap: int | None = None  #: most items of one category in an answer
    minimum_price: float | None = None

    @classmethod
    def parse(cls, fields: Any, where: str) -> Filters:
        """Filters of a JSON value; null or nothing is none. Raises BadInput naming the field."""
        if fields is None:
            return cls()
        checked = known_fields(fields, _FIELDS, where)
        return cls(
            _ids(checked, "deny_items", where),
            _ids(checked, "deny_categories", where),
            integer(checked, "category_cap", range(1, _MOST_CAP)),
            number(checked, "minimum_price"),
        )

    @classmethod
    def read(cls, path: Path) -> Filters:
        """Filters of a file. Raises BadInput naming the file and what is wrong in it."""
        try:
            return cls.parse(orjson.loads(path.read_bytes()), "filters")
        except OSError as error:
            raise BadInput(f"filters {path} cannot be read: {error.strerror or error}") from error
        except orjson.JSONDecodeError as error:
            raise BadInput(f"filters {path} are not JSON: {error}") from error
        except BadInput as error:
            raise BadInput(f"filters {path}: {error}") from error

    def __bool__(self) -> bool:
        return self != NO_FILTERS

    def tightened(self, other: Filters) -> Filters:
        """What passes both."""
        if not other or not self:
            return self or other
        return Filters(
            self.deny_items | other.deny_items,
            self.deny_categories | other.deny_categories,
            _strictest(min, self.category_cap, other.category_cap),
            _strictest(max, self.minimum_price, other.minimum_price),
        )

    def apply(
        self,
        order: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64],
        items_of: Callable[[list[int]], list[Item | None]],
        top_k: int,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Walk a ranking (`order` [n] indices of candidates, best first) until `top_k` pass.

        Returns the indices that passed, best first, and those that were left out on the way. An item of which the
        catalogue holds nothing has neither category nor price. The order of what passes never changes.
        """
        passed: list[int] = []
        left_out: list[int] = []
        of_category: Counter[int] = Counter()
        for start in range(0, len(order), _AT_A_TIME):
            some = order[start : start + _AT_A_TIME]
            several = ids[some].tolist()
            for index, item_id, item in zip(some.tolist(), several, items_of(several), strict=True):
                if len(passed) == top_k:
                    break
                (passed if self._passes(item_id, item, of_category) else left_out).append(index)
            if len(passed) == top_k:
                break
        return np.array(passed, dtype=np.int64), np.array(left_out, dtype=np.int64)

    def _passes(self, item_id: int, item: Item | None, of_category: Counter[int]) -> bool:
        if item_id in self.deny_items:
            return False
        if item is None:
            return True
        if self.minimum_price is not None and item.price is not None and item.price < self.minimum_price:
            return False
        category = item.category_id
        if category is None:
            return True
        if category in self.deny_categories:
            return False
        if self.category_cap is not None:
            if of_category[category] >= self.category_cap:
                return False
            of_category[category] += 1
        return True


def check_scores(scores: npt.NDArray[np.float32], version: str) -> None:
    """Raise Corrupt where a score is not a number: what is ranked by it would have no order."""
    if not np.isfinite(scores).all():
        raise Corrupt(f"model {version} gave a score that is not a number: roll back to another version")


def _strictest(choose: Callable[..., Any], one: Any, other: Any) -> Any:
    given = [each for each in (one, other) if each is not None]
    return choose(given) if given else None


def _ids(fields: dict[str, Any], name: str, where: str) -> frozenset[int]:
    refs = fields.get(name)
    if refs is None:
        return frozenset()
    if not isinstance(refs, list):
        raise BadInput(f"{name} of {where} must be an array of ids, not {kind_of(refs)}")
    if len(refs) > _MOST_DENIED:
        raise BadInput(f"{name} of {where} has {len(refs)} ids, at most {_MOST_DENIED} are allowed")
    return frozenset(entity_of(ref, f"{name}[{index}]") for index, ref in enumerate(refs))


#: Everything passes.
NO_FILTERS: Final = Filters()
