"""Failpoints."""

import pytest

from schemas.errors import BadInput
from streams.failpoint import Failpoint


def test_it_acts_at_the_counted_step_and_only_there() -> None:
    """The third time a step is reached is the one that fails; other steps do not count."""
    failpoint = Failpoint.parse("raise:committed:3")
    for _ in range(2):
        failpoint.reach("folded")
        failpoint.reach("committed")
    with pytest.raises(RuntimeError, match="committed"):
        failpoint.reach("committed")
    failpoint.reach("committed")


@pytest.mark.parametrize(
    "text", ["kill", "kill:committed", "kill:nowhere:1", "explode:committed:1", "kill:committed:x"]
)
def test_a_malformed_one_is_refused(text: str) -> None:
    """Anything but ACTION:STEP:COUNT is refused with the words that are known."""
    with pytest.raises(BadInput, match="first_stored"):
        Failpoint.parse(text)
