"""What a candidate costs. Read head.py (what scoring is made of), plain.py (the formula in numpy, which every other
implementation is tested against), compiled.py (numba), native.py with native/*.c, and choice.py (which of them runs).
"""

from serving.kernels.choice import Kernel, Prepared, PreparedUser, choose, kernel, prepare, score_rows
from serving.kernels.head import Floats, Folded, Head
from serving.kernels.ranking import rank

__all__ = [
    "Floats", "Folded", "Head", "Kernel", "Prepared", "PreparedUser", "choose", "kernel", "prepare", "rank",
    "score_rows",
]  # fmt: skip
