"""What AIF is measured against: one model a file, all on AIF's own encoders and inputs.

Read parts.py, then two_tower.py, cold.py, din.py, eta.py and ranker.py (the ceiling); popularity.py learns nothing.
"""
