"""The tokenizer: a pad token without resizing anything, and a chat template where the recipe gives one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.plugin.api import RecipeError, RunError, is_file, short, user_path

from .source import Source, resolve
from .weights import load_config, loading_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from . import TransformersLoader

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def load_tokenizer(options: TransformersLoader.Options) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside the weights; an adapter without one has its base model's.

    Raises:
        RecipeError: the chat template is none.
        RunError: there is no tokenizer, or none that transformers can read.
    """
    source = resolve(options.name, options.revision)
    tokenizer = _load(source, options)
    _set_pad(tokenizer, getattr(load_config(source.model, options).get_text_config(), "vocab_size", None))
    if options.chat_template is not None:
        tokenizer.chat_template = _chat_template(options.chat_template, tokenizer)
        _try_out(tokenizer, options.chat_template)
    return tokenizer


def _load(source: Source, options: TransformersLoader.Options) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    place = source
    if source.base is not None and not (Path(source.path) / "tokenizer_config.json").is_file():
        place = source.base
    revision = None if Path(place.path).is_dir() else place.commit
    with loading_errors(place.path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.path, revision=revision or "main", trust_remote_code=options.trust_remote_code
        )
    own = tokenizer.chat_template
    templates = list(own.values()) if isinstance(own, dict) else [own or ""]
    if not all(isinstance(one, str) for one in templates):
        raise RunError(
            f"the tokenizer of {place.path} has a chat_template that is no text; correct it in its "
            "tokenizer_config.json"
        )
    if not len(tokenizer):
        raise RunError(f"{place.path} holds no tokenizer: put the model's tokenizer files there")
    return tokenizer


def _set_pad(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> None:
    """Give the tokenizer a pad token that it already has, of the ``vocabulary`` tokens that the model's embedding has.

    Padding is masked in attention and never scored, so any will do. A new one, or one that was added to the tokenizer
    alone, would need a row in the embedding, for which the saved model would have to be resized.
    """

    def usable(token: int | None) -> bool:
        return token is not None and (vocabulary is None or token < vocabulary)

    if tokenizer.pad_token is not None and usable(tokenizer.pad_token_id):
        return
    for token in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token):
        if token is not None and usable(tokenizer.convert_tokens_to_ids(token)):
            tokenizer.pad_token = token
            return
    raise RunError(
        f"the tokenizer of {tokenizer.name_or_path} has neither a pad token nor an EOS, unknown or BOS token "
        "to pad with; set one in its tokenizer_config.json"
    )


def _chat_template(wanted: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the Jinja text that ``model.chat_template`` means."""
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    named = {"chatml": CHATML} | own
    if _is_jinja(wanted):
        return wanted
    if wanted in named:
        return named[wanted]
    path = user_path(wanted)
    if is_file(path):
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"model.chat_template = {wanted!r} cannot be read: {error}") from error
    raise RecipeError(
        f"model.chat_template = {short(wanted)!r} is not a file, Jinja text or a known template "
        f"({', '.join(sorted(named))})"
    )


def _is_jinja(text: str) -> bool:
    return "{%" in text or "{{" in text


def _try_out(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise a RecipeError if the template is not Jinja; better now than in the middle of the data."""
    from jinja2 import TemplateSyntaxError

    shown = "model.chat_template" if _is_jinja(name) else name
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except TemplateSyntaxError as error:
        raise RecipeError(f"{shown}, line {error.lineno}: not a Jinja template: {error.message}") from error
    except Exception:  # It may want more than one user turn, and be as surprised as any program.
        return
