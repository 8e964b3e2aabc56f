"""The same work by other means: records of 64 bytes counted by key into rows of 512 bytes, kept and published.

Each module is a process of its own (bench/job.py): raw.py, quix.py, stock_faust.py.
"""
