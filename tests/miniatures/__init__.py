"""Miniatures of the paper's models, true in everything but size, and the hub repositories around them.

    python -m tests.miniatures FOLDER        # all of them, laid out as a hub serves them

Nothing of them is committed: weights are random, tokenizers come by `requirements/tokenizers.sh`, rows of shared/datasets.
"""
