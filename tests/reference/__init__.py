"""Naive re-implementations that the fast code is tested and timed against.

Plain loops on a raw Hugging Face model in evaluation mode and token ids: batches of one row, no
padding, no attention mask, no cache. Nothing here imports ``kn_sweeps``, so no mistake is shared.
"""
