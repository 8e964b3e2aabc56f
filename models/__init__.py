"""The AIF model in torch: training on a log, export to an artifact, and the item tower as workers run it.

Read config.py and aif.py, then log.py, history.py, examples.py and training.py, then export.py, tower.py, reference.py.
"""
