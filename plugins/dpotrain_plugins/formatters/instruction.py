"""One instruction or question a row, in columns of its own: Alpaca's, and question/system."""

from __future__ import annotations

from dpotrain.plugin.api import PreferencePair, Recognition, UnusableRow, is_empty
from dpotrain_plugins.formatters.conversations import pair_of
from dpotrain_plugins.formatters.dialogues import ends_with_human, is_dialogue, is_whole_dialogue
from dpotrain_plugins.formatters.shape import (
    CONTEXT,
    OtherShape,
    Row,
    ShapeFormatter,
    answers,
    are_texts,
    both,
    column,
    is_text,
    nothing_in,
    the_column,
)

#: Columns that hold the question, the first one that holds something.
_QUESTIONS = ("question", "query", "input")


class AlpacaFormatter(ShapeFormatter):
    """instruction, input; chosen and rejected, or output as a list [chosen, rejected]; system, history.

    Instruction and input are one user turn, a blank line between them. ``history`` is a list of earlier
    [user, assistant] turns.
    """

    name = "alpaca"
    columns = ("instruction", "input", "chosen", "rejected", "output", *CONTEXT)

    def read(self, row: Row) -> PreferencePair:
        if not is_text(row.get("instruction")):
            raise OtherShape("instruction is not text")
        instruction, more = column(row, "instruction"), column(row, "input")
        if not (instruction is None or is_text(instruction)) or not (more is None or is_text(more)):
            raise OtherShape("instruction and input are not text")
        if column(row, "chosen") is None and column(row, "rejected") is None:
            output = row.get("output")
            if not isinstance(output, list) or len(output) != 2 or not all(map(is_text, output)):
                raise OtherShape("there are neither chosen and rejected nor an output of two texts")
            row = {**{name: row.get(name) for name in CONTEXT}, "chosen": output[0], "rejected": output[1]}
        chosen, rejected = both(answers(row), row)
        if instruction is not None and more is not None and instruction.split() == more.split():
            more = None  # the same question in both columns stands once
        text = "\n\n".join(part for part in (instruction, more) if part is not None)
        if not text:
            raise UnusableRow("instruction is empty")
        return pair_of(row, [{"role": "user", "content": text}], chosen, rejected)


class QuestionFormatter(ShapeFormatter):
    """question, query or input (or, beside system, history or tools, prompt) as text; chosen and rejected; system.

    As in Orca's pairs.
    """

    name = "question"
    columns = (*_QUESTIONS, "prompt", "chosen", "rejected", *CONTEXT)

    def recognises(self, row: Row) -> Recognition:
        # A prompt text with nothing of a conversation beside it is plain text, unless the recipe says otherwise.
        if all(row.get(name) is None for name in _QUESTIONS) and all(
            is_empty(row.get(name)) for name in CONTEXT
        ):
            return Recognition.NO
        return super().recognises(row)

    def read(self, row: Row) -> PreferencePair:
        if not any(name in row for name in (*_QUESTIONS, "prompt")):
            raise OtherShape("there is no question")
        values = answers(row)
        name, question = the_column(row, _QUESTIONS)
        if question is None and column(row, "prompt") is not None:
            name, question = "prompt", column(row, "prompt")
            spoken = is_dialogue if ends_with_human(question) else is_whole_dialogue
            if not are_texts(values) or any(map(spoken, values)):
                raise OtherShape("the answers are not plain text")
        if name not in row or not (question is None or is_text(question)):
            raise OtherShape(f"{name} is not text")
        if is_whole_dialogue(question):
            raise OtherShape(f"{name} is a dialogue")
        chosen, rejected = both(values, row)
        if question is None:
            raise nothing_in(row, name)
        return pair_of(row, [{"role": "user", "content": question}], chosen, rejected)
