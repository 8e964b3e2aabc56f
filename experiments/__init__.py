"""Questions about the model that its paper leaves open, each answered by one command: `aif experiment NAME`.

Read catalogue.py (the questions), measured.py (variants of a model trained side by side and judged on the same users),
then a question's own module: `run` measures and gives JSON values, `tables` and `figure` are made of those alone, so
that what stands under docs/experiments can be made again from the recorded numbers. Belongs to a checkout and is not
installed, like bench.
"""
