"""Pure logic that workers, training and serving share: no broker, no disk, no clock, no torch, no faust.

Read windows.py, features.py, user_row.py and user_state.py (user side), lsh.py and n2o.py (item side), artifact.py,
then the rest.
"""
