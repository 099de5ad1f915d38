"""``dpotrain chat``: talk to the result of a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpotrain.cli.arguments import RunPath
from dpotrain.cli.group import debug_option, set_option

if TYPE_CHECKING:
    from dpotrain.ui.chat import Answer


@click.command("chat", short_help="Talk to the result of a run.")
@click.argument("run", type=RunPath())
@click.option("--prompt", metavar="TEXT", help="Answer this and end; - reads it from standard input.")
@click.option("--compare", is_flag=True, help="Let the policy before training answer, too.")
@click.option("--checkpoint", metavar="STEP", help="A checkpoint instead of final/: its step, best, or last.")
@click.option("--system", metavar="TEXT", default="", help="A system prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, help="Most tokens of an answer (512).")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, max=10),
    default=0.0,
    help="0, the default, takes the likeliest token; 1 draws from the model's own distribution.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    help="Draw from the likeliest tokens that together have this probability.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, help="Of the draws (0).")
@set_option
@debug_option
def command(
    run: Path,
    prompt: str | None,
    compare: bool,
    checkpoint: str | None,
    system: str,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    overrides: tuple[str, ...],
) -> None:
    """Talk to the result of RUN, a run folder: what final/ holds, loaded as the run loaded its model.

    Answers appear as they come; Ctrl-C stops one. /reset forgets the conversation, /quit ends. A model whose pairs
    were plain text continues each text as it stands. --set changes the model's part of the recipe, for instance
    --set quantizer=false to load the weights unquantized.

    \b
    Exit codes: 0 done, 1 it cannot be loaded, 2 there is no such run or checkpoint.
    """  # noqa: D301  # click wants the backspace itself
    from dpotrain.core.errors import RecipeError
    from dpotrain.core.packages import import_transformers
    from dpotrain.ui.chat import Chat, LoadingReporter
    from dpotrain.ui.console import open_console

    if not (run / "recipe.toml").exists():  # before anything heavy is imported
        from dpotrain.run.folder.run_folder import no_run_folder

        raise no_run_folder(run, "recipe.toml")
    said = sys.stdin.read().strip() if prompt == "-" else prompt
    if said is not None and not said.strip():
        raise RecipeError("--prompt has no text")
    errors = open_console(stderr=True)
    with errors.status("importing torch …"):
        import_transformers()
        from dpotrain.engine.generation import Decoding
        from dpotrain.run.answering import Answerer, load_answerers
        from dpotrain.run.folder.log import logging_to

    # What libraries say would run through the conversation.
    with logging_to(Path(os.devnull), lambda text: None):
        loaded = load_answerers(
            run, LoadingReporter(errors), checkpoint=checkpoint, compare=compare, overrides=overrides
        )
        if system and not loaded.conversational:
            raise RecipeError(
                "--system: the model has no chat template, or its pairs were plain text, so it has no system prompt"
            )
        decoding = Decoding(max_tokens, temperature, top_p, seed)

        def voice(answerer: Answerer) -> Answer:
            return lambda asked, write: answerer.answer(asked, decoding, write)

        answers = {} if loaded.untrained is None else {"before training": voice(loaded.untrained)}
        answers[loaded.what] = voice(loaded.trained)
        chat = Chat(answers, open_console(), loaded.conversational, system)
        if said is not None:
            chat.answer(said)
            return
        if sys.stdin.isatty():
            import readline  # noqa: F401  # gives input() a history and keys to edit with

            kind = "" if loaded.conversational else "; it continues each text as it stands"
            errors.print(f"{loaded.what} of {run}{kind}", style="bold", soft_wrap=True, markup=False)
            errors.print("/reset, /quit, /help; Ctrl-C stops an answer", style="dim")
            chat.run()
        else:
            chat.ask = lambda shown: input()
            chat.run()
