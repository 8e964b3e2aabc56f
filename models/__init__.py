"""The AIF model in torch: training on a log, export to an artifact, and the item tower as workers run it.

Read config.py and aif.py, then log.py, history.py, examples.py, fitting.py and training.py, then export.py, tower.py,
reference.py. What AIF is compared with is in baselines/, how in evaluation/, on planted_log.py beside real logs.
"""
