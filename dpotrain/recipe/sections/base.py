"""What all tables of a recipe have in common. TOML has no null: a recipe writes ``false`` for None."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every table: frozen, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )
