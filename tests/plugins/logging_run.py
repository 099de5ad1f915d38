"""The made-up run that the tests of the loggers share."""

from __future__ import annotations

from dpotrain.testing.conformance.logger import SECRET, ended, evaluation, made_up_run, train

__all__ = ["SECRET", "ended", "evaluation", "made_up_run", "train"]
