"""The recipe tables that belong to the core, typed."""
