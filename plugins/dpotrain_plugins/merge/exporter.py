"""The ``merge`` exporter: beside the adapter in ``final/``, a whole model that needs no peft."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Exporter, Finished

dpotrain_interface = 2


class Merge(Exporter):
    """Writes the adapter's updates into the weights of its base, and the whole model into the run folder.

    Weights that were quantized in training are merged as they were rounded, since that is what the adapter was trained
    on. The merged model is loaded again, and its log-probs are compared with the unmerged one's. llama.cpp's own
    convert_hf_to_gguf.py makes a GGUF file of the folder.
    """

    name = "merge"
    needs_adapter = True

    class Options(Exporter.Options):
        folder: Path = Field(
            Path("merged"), description="Where the model goes; inside the run folder unless absolute."
        )
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
            "auto",
            description='What the weights are saved in; "auto" is what the base was saved in. Small updates get lost '
            "in 16 bits, and the exporter fails where most of them do.",
        )

    options: Options

    def export(self, run: Finished) -> str:
        from .merging import merge

        merged = merge(
            run.final,
            run.folder / self.options.folder,
            dtype=self.options.dtype,
            quantizer=run.recipe.quantizer,
            trust_remote_code=getattr(run.recipe.model.options, "trust_remote_code", False),
        )
        return str(merged)


@hookimpl
def dpotrain_exporters() -> list[type[Exporter]]:
    return [Merge]
