from dpotrain_answers import Answers

from dpotrain.testing import CallbackConformance


class TestAnswers(CallbackConformance):
    component = Answers
    options = {"prompts": 2, "max_tokens": 4}


def test_every_evaluation_has_the_length_of_the_answers(dpotrain_run):
    run = dpotrain_run("[[callbacks]]\nuse = 'answers'\nmax_tokens = 3")
    assert all(1 <= record["answers/tokens"] <= 3 for record in run.evaluations)
