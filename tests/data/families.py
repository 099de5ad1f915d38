"""Model families as tests have them: chat templates written from their published behaviour, with their tokens."""
# ruff: noqa: RUF001  # DeepSeek's tokens have wide bars

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from tests.data.tokenizers_for_tests import bpe

TEMPLATES = Path(__file__).parent / "templates"
#: The time that templates read.
CLOCK = datetime(2026, 1, 31, 12, 30)

#: Why a conversation is refused.
_PART = "the chat template leaves out part of the"
_REFUSED = "the chat template refuses the messages: "
_NO_REASONING = {"thinking": f"{_PART} chosen answer (reasoning)"}
_NO_CALLS = {
    "tool call": f"{_PART} chosen answer (tool calls)",
    "tool call with text": f"{_PART} chosen answer (tool calls)",
    "two tool calls": f"{_PART} chosen answer (tool calls)",
    "tool result": f"{_PART} prompt (tool calls)",
}
_NO_TOOLS = {**_NO_CALLS, "tools": f"{_PART} prompt (tools)"}
_NO_RESULTS = {**_NO_TOOLS, "tool result": f"{_PART} prompt (tool calls, tool text)"}
_ALTERNATE = {
    **_NO_TOOLS,
    "tool result": f"{_REFUSED}Conversation roles must alternate user/assistant/user/assistant/...",
}
_TEXT_OR_CALL = {"tool call with text": f"{_PART} chosen answer (text)"}

_CHATML = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_COMMAND_R = tuple(
    f"<|{name}_TOKEN|>" for name in ("START_OF_TURN", "END_OF_TURN", "SYSTEM", "USER", "CHATBOT")
)
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]")
_R1_TOOLS = ("tool▁calls▁begin", "tool▁call▁begin", "tool▁sep", "tool▁call▁end", "tool▁calls▁end")
_R1 = tuple(
    f"<｜{name}｜>" for name in ("User", "Assistant", *_R1_TOOLS, "tool▁outputs▁begin", "tool▁outputs▁end")
)
_R1_ENDS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
_CHANNELS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")


@dataclass(frozen=True)
class Family:
    """A chat template with its tokens."""

    template: str
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Tokens of their own that are not declared special."""
    arguments: dict = field(default_factory=dict)
    """Variables of the template."""
    refuses: dict[str, str] = field(default_factory=dict)
    """Why, by conversation: what the template cannot write."""
    bos: str = "<s>"
    eos: str = "</s>"
    reasoning: str = "reasoning_content"
    """Under which key of a message it reads reasoning, if it does."""
    calls_as_text: bool = False
    """Whether it takes the arguments of tool calls as JSON text alone."""

    @property
    def source(self) -> str:
        return (TEMPLATES / f"{self.template}.jinja").read_text(encoding="utf-8")

    @property
    def frozen(self) -> str:
        """The template with the time written into it."""
        return re.sub(r"strftime_now\('([^']+)'\)", lambda found: repr(CLOCK.strftime(found[1])), self.source)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a byte-level tokenizer with the family's tokens and template."""
        tokenizer = bpe(bos=True, template=self.source)
        for tokens, special in ((self.special, True), (self.added, False)):
            tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
        tokenizer.bos_token, tokenizer.eos_token = self.bos, self.eos
        return tokenizer


_PHI3 = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
_QWEN3 = Family("qwen3", _CHATML, (*_THINK, *_CALLS))
_SMOLLM3 = Family("smollm3", _CHATML, _THINK, refuses=_NO_REASONING | _NO_CALLS)

FAMILIES = {
    "Llama 3": Family("llama3", _LLAMA, refuses=_NO_REASONING | _NO_TOOLS),
    "Llama 3.2": Family(
        "llama3_2",
        _LLAMA,
        refuses={
            **(_NO_REASONING | _TEXT_OR_CALL),
            "two tool calls": f"{_REFUSED}This model only supports single tool-calls at once!",
        },
    ),
    "Qwen 2.5": Family("qwen2_5", _CHATML, _CALLS, refuses=_NO_REASONING),
    "Qwen 3": _QWEN3,
    "Qwen 3 without thinking": Family("qwen3", _CHATML, (*_THINK, *_CALLS), {"enable_thinking": False}),
    "Gemma 2": Family(
        "gemma2",
        _GEMMA,
        refuses={**(_NO_REASONING | _ALTERNATE), "system": f"{_REFUSED}System role not supported"},
    ),
    "Gemma 3": Family("gemma3", _GEMMA, refuses=_NO_REASONING | _ALTERNATE),
    # It writes the system text into the last turn, and only where that is the user's.
    "Mistral": Family(
        "mistral",
        _MISTRAL,
        refuses={**(_NO_REASONING | _TEXT_OR_CALL), "system": f"{_PART} prompt (system text)"},
    ),
    "Phi 3": Family(
        "phi3", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), refuses=_NO_REASONING | _NO_RESULTS
    ),
    "Phi 4": Family("phi4", (*_CHATML, "<|im_sep|>"), refuses=_NO_REASONING | _NO_RESULTS),
    "DeepSeek R1": Family(
        "deepseek_r1",
        _R1_ENDS,
        (*_R1, *_THINK),
        refuses={
            **_NO_REASONING,
            "thinking in the text": _NO_REASONING["thinking"],
            "tools": _NO_TOOLS["tools"],
        },
        bos=_R1_ENDS[0],
        eos=_R1_ENDS[1],
        calls_as_text=True,
    ),
    "SmolLM 2": Family("smollm2", _CHATML, refuses=_NO_REASONING | _NO_TOOLS),
    "SmolLM 3": _SMOLLM3,
    "SmolLM 3 without thinking": Family(
        "smollm3", _CHATML, _THINK, {"enable_thinking": False}, refuses=_SMOLLM3.refuses
    ),
    "OLMo 2": Family("olmo2", refuses=_NO_REASONING | _NO_RESULTS),
    "Command R": Family("command_r", _COMMAND_R, refuses=_NO_REASONING | _ALTERNATE),
    "gpt-oss": Family(
        "gpt_oss", _CHANNELS, refuses={"two tool calls": _NO_TOOLS["two tool calls"]}, reasoning="thinking"
    ),
}
