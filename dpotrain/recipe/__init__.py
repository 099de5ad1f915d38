"""TOML to a typed, checked Recipe."""
