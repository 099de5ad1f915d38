"""``dpotrain merge``: an adapter folder into a whole model, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dpotrain.plugin.api import Quantizer


@click.command("merge", short_help="Write an adapter into the weights of its base.")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("into", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    help='What the weights are saved in; "auto" is what the base was saved in.',
)
@click.option("--trust-remote-code", is_flag=True, help="Run the Python code that comes with the base.")
def command(adapter: Path, into: Path, dtype: str, trust_remote_code: bool) -> None:
    """Write ADAPTER, a folder that peft loads, into the weights of its base, and the whole model to the folder INTO.

    The result is loaded again, and its log-probs are compared with those of the unmerged model. Where ADAPTER is the
    final/ of a run, the base is quantized as it was in that run first: that is what the adapter was trained on.
    """
    from dpotrain.plugin.api import RecipeError

    if into.exists():
        raise RecipeError(f"{into} is there already; name a folder that is not")
    from .merging import merge

    click.echo(
        str(
            merge(
                adapter,
                into,
                dtype=dtype,
                quantizer=_quantizer(adapter.resolve().parent / "recipe.toml"),
                trust_remote_code=trust_remote_code,
            )
        )
    )


def _quantizer(recipe: Path) -> Quantizer | None:
    """Return the quantizer of the run whose resolved recipe this is; None if it is none, or the run had none."""
    import tomllib

    from dpotrain.plugin.api import Quantizer
    from dpotrain.plugin.runtime.manager import PluginManager

    if not recipe.is_file():
        return None
    table = tomllib.loads(recipe.read_text(encoding="utf-8")).get("quantizer")
    if not table:
        return None
    kind = PluginManager.from_entry_points().find(Quantizer, table.pop("use"))
    return kind(kind.Options.model_validate(table))
