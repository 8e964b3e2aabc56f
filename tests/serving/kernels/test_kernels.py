from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.item_features import category_buckets
from domain.lsh import signs
from domain.n2o import Flag
from models import reference
from serving.kernels import ROUNDING, rank
from serving.kernels.plain import Plain
from serving.ranking.scorer import Scorer
from serving.stages import StageClock
from serving.user.user_side import Asked
from serving.user.user_state import StateMaker
from tests.serving.conftest import NOW_MS, item_rows, user_rows
from tests.serving.kernels.conftest import chosen, fast_kernels, made_up

#: Of the best 500 of 4,000, how many are float32's at least.
SHARED = {"float32": 0.999, "bfloat16": 0.995, "int8": 0.98}
FAST = fast_kernels()

every_fast_kernel = pytest.mark.parametrize("kernel", FAST, ids=lambda kernel: kernel.name)


def tolerance(kernel) -> float:
    """The largest difference from the oracle that rounding explains."""
    return 2e-5 if kernel.precision == "float32" else ROUNDING[kernel.precision]


@every_fast_kernel
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    candidates=st.sampled_from([1, 5, 6, 47, 49, 300, 481]),
    bits=st.sampled_from([64, 128, 192, 256]),
    tiers=st.sampled_from([0, 1, 2, 4, 8, 12, 16, 32]),
    groups=st.lists(st.sampled_from([0, 1, 63, 130, 257, 511, 513, 1100]), max_size=3).map(tuple),
    attended=st.sampled_from([0, 1, 15, 17, 40]),
    categories=st.sampled_from([0, 1, 9]),
    odd=st.booleans(),
    similar=st.booleans(),
    din=st.booleans(),
)
def test_every_kernel_scores_as_the_oracle(
    kernel, seed, candidates, bits, tiers, groups, attended, categories, odd, similar, din
) -> None:
    """Any sizes: no behaviours, tiers, attention, categories or linear DIN, unsigned candidates, blocks not full."""
    shape = {"vector_dim": 7, "bridges": 3, "hidden": (10, 70)} if odd else {}
    case = made_up(
        seed, candidates, bits=bits, tiers=tiers, groups=groups, attended=attended, categories=categories,
        similar=similar, din=din, **shape,
    )  # fmt: skip
    expected = Plain().prepare(case.head, case.sizes, case.folded).score(case.rows)
    found = kernel.prepare(case.head, case.sizes, case.folded).score(case.rows)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < tolerance(kernel)


@pytest.mark.parametrize("kernel", [Plain(), *FAST], ids=lambda kernel: kernel.name)
def test_every_kernel_scores_as_the_reference(kernel) -> None:
    """The slow formula of models/reference.py, one candidate and behaviour at a time, gives the same."""
    case = made_up(3, 40, groups=(5, 30), attended=12, similar=True)
    sizes, folded = case.sizes, case.folded
    # The reference reads behaviours newest first; here the attended ones are those without an action of any group.
    past = np.concatenate([folded.attended, *folded.groups])
    signed = np.concatenate([folded.attended_signed, np.ones(35, dtype=bool)])
    actions = np.repeat([2, 0, 1], [12, 5, 30])
    feed = {"signatures": signs(past) * signed[:, None], "actions": actions}
    parts = "bias", "bridge_weight", "signature_weight", "attention_weight", "category_weight"
    head = {name: getattr(case.head, name) for name in sizes.head_shapes}
    records = case.rows.view(sizes.layout.dtype)[:, 0]
    expected = reference.score(
        sizes, head, {name: getattr(folded, name) for name in parts}, feed, folded.categories, records
    )
    buckets = category_buckets(records["category_id"], records["flags"] & Flag.HAS_CATEGORY != 0, 64)
    assert np.isin(folded.categories[folded.categories > 0], buckets).any() and len(set(expected.round(4))) > 30
    found = kernel.prepare(case.head, sizes, folded).score(case.rows)
    assert np.abs(found - expected).max() < tolerance(kernel)


@every_fast_kernel
def test_rankings_agree_with_float32(kernel) -> None:
    """Of the best 500 out of 4,000, as many are the oracle's as its precision promises; again gives the same bytes."""
    shared, total = 0, 0
    for seed in range(4):
        case = made_up(seed, 4000, groups=(24, 232))
        scores = [each.prepare(case.head, case.sizes, case.folded).score(case.rows) for each in (Plain(), kernel)]
        again = kernel.prepare(case.head, case.sizes, case.folded).score(case.rows)
        assert again.tobytes() == scores[1].tobytes() and np.isfinite(again).all()
        ids, servable = np.arange(4000), np.ones(4000, dtype=bool)
        best = [set(rank(each, ids, servable, 500).tolist()) for each in scores]
        shared, total = shared + len(best[0] & best[1]), total + 500
    assert shared / total >= SHARED[kernel.precision]


@every_fast_kernel
def test_ten_thousand_behaviours_are_counted_exactly(kernel) -> None:
    """No counter of a tier overflows: candidates like all of the behaviours, and candidates unlike all of them."""
    case = made_up(1, 60, groups=(10_000,), attended=0)
    case.folded.groups[0][:] = case.folded.groups[0][0]
    case.rows.view(case.sizes.layout.dtype)["signature"][::2] = case.folded.groups[0][0]
    case.rows.view(case.sizes.layout.dtype)["signature"][1::2] = ~case.folded.groups[0][0]
    expected = Plain().prepare(case.head, case.sizes, case.folded).score(case.rows)
    found = kernel.prepare(case.head, case.sizes, case.folded).score(case.rows)
    assert np.abs(found - expected).max() < tolerance(kernel)


@pytest.mark.parametrize("kernel", [Plain(), *FAST], ids=lambda kernel: kernel.name)
def test_without_linear_din_its_matrix_is_not_read(kernel) -> None:
    """A model without linear DIN scores as one whose matrix is zeros, whatever stands in the matrix."""
    case = made_up(4, 70, bits=128, din=False)
    zeros = replace(case.folded, signature_weight=np.zeros_like(case.folded.signature_weight))
    expected = kernel.prepare(case.head, replace(case.sizes, din=True), zeros).score(case.rows)
    found = kernel.prepare(case.head, case.sizes, case.folded).score(case.rows)
    np.testing.assert_allclose(found, expected, atol=tolerance(kernel) / 100)


@every_fast_kernel
@pytest.mark.parametrize("weight", [1.0, -1.0, 1e-30, 1e30])
def test_sums_of_signs_do_not_overflow(kernel, weight) -> None:
    """256 signs that all agree with weights of one size, the largest sum there is, and all that disagree."""
    case = made_up(6, 50, bits=256)
    case.folded.signature_weight[:] = weight
    records = case.rows.view(case.sizes.layout.dtype)
    records["signature"][::2], records["signature"][1::2] = 255, 0
    expected = Plain().prepare(case.head, case.sizes, case.folded).score(case.rows)
    found = kernel.prepare(case.head, case.sizes, case.folded).score(case.rows)
    np.testing.assert_allclose(found, expected, atol=tolerance(kernel))


@every_fast_kernel
def test_a_user_that_is_not_a_number_has_no_scores(kernel) -> None:
    """A weight of signs that is not a number gives no score to any candidate with a signature."""
    case = made_up(1, 50)
    case.folded.signature_weight[5] = np.nan
    found = kernel.prepare(case.head, case.sizes, case.folded).score(case.rows)
    signed = case.rows.view(case.sizes.layout.dtype)["flags"][:, 0] & Flag.HAS_SIGNATURE != 0
    assert np.isnan(found[signed]).all()


@every_fast_kernel
def test_what_is_not_a_number_stays_so(kernel) -> None:
    """A vector that is not finite gives a score that is not a number, which the scorer refuses; others keep theirs."""
    case = made_up(1, 50)
    prepared = kernel.prepare(case.head, case.sizes, case.folded)
    before = prepared.score(case.rows)
    case.rows.view(case.sizes.layout.dtype)["vector"][7] = 0x7FC0
    found = prepared.score(case.rows)
    assert np.isnan(found[7]) and np.array_equal(np.delete(found, 7), np.delete(before, 7))


@every_fast_kernel
def test_threads_share_a_prepared_user(kernel) -> None:
    """Four threads that score with one user at a time get what one thread gets."""
    case = made_up(2, 1200)
    prepared = kernel.prepare(case.head, case.sizes, case.folded)
    expected, wrong = prepared.score(case.rows), []

    def run() -> None:
        wrong.extend(each for each in range(8) if not np.array_equal(prepared.score(case.rows), expected))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@every_fast_kernel
def test_long_signatures_and_no_candidates_are_scored_too(kernel) -> None:
    """320 bits, more than C's tables hold, give the oracle's scores; no candidates give none."""
    case = made_up(5, 30, bits=320, groups=(20,))
    prepared = kernel.prepare(case.head, case.sizes, case.folded)
    expected = Plain().prepare(case.head, case.sizes, case.folded).score(case.rows)
    assert np.abs(prepared.score(case.rows) - expected).max() < tolerance(kernel)
    assert prepared.score(case.rows[:0]).shape == (0,) and prepared.nbytes > 0


@every_fast_kernel
def test_a_server_ranks_with_it(kernel, world, make_artifact) -> None:
    """From changelog rows to a ranking, every kernel gives the scores that numpy gives."""
    world.apply("items", item_rows(range(100, 130)))
    world.apply("users", user_rows(77, [100, 101, 104, 105]))
    world.go_live(make_artifact(3), range(100, 130))
    version, users, ids = world.versions.live, world.store.users, np.arange(98, 131)
    ranked = []
    for each in (Plain(), kernel):
        with chosen(each):
            state = StateMaker(users)(version, [Asked(77, users.head(77), NOW_MS, 20)])[0]
        ranked.append(Scorer().rank(version, state, ids, 10, StageClock()))
    assert np.abs(ranked[0].scores - ranked[1].scores).max() < tolerance(kernel)
    assert ranked[0].known.tolist() == ranked[1].known.tolist()
