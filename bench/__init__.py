"""Measured on this machine, beside rivals and physical limits, in one run.

Read streams.py (what is measured, in which order), then measures.py (one function per figure), plain_fold.py and
lane_worker.py (our side), rivals/ (theirs), load.py (the same records for all, and the check of what came out).
"""
