"""The scoring process: no torch, no Faust. Read store.py and slab.py (what it holds), feed.py (how that gets there),
versions.py (which model answers), scorer.py with user_phase.py and kernels/ (what an answer costs), then service.py,
api.py and server.py.
"""
