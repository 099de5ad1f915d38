"""The parts of the documents that are generated from the code, and the tests that they are up to date.

``python -m tests.docs`` writes them anew.
"""
