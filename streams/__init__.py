"""Faust workers. Read topology.py (what runs), item_updates.py and user_events.py (what it computes), then the lane
that carries the data: batching.py (in), partition.py (one partition's life), changelog.py and store.py (out).
"""
