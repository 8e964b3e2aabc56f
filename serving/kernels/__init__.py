"""What a candidate costs. Read head.py (what scoring is made of), plain.py (the formula in numpy, which every other
implementation is tested against), compiled.py (numba), native.py with packing.py and native/*.c, and choice.py (which
of them runs).
"""

from serving.kernels.choice import Kernel, Prepared, PreparedUser, available, choose, kernel, prepare, score_rows
from serving.kernels.head import ROUNDING, Floats, Folded, Head, Precision
from serving.kernels.ranking import rank

__all__ = [
    "ROUNDING", "Floats", "Folded", "Head", "Kernel", "Precision", "Prepared", "PreparedUser", "available", "choose",
    "kernel", "prepare", "rank", "score_rows",
]  # fmt: skip
