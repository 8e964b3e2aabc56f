"""The contracts. Read deployment.py, topics.py, records.py, then codec.py.

Nothing here imports anything else of the project; everything else may import this.
"""
