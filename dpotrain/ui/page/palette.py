"""The colours of pages and pictures, on light and on dark: text 4.5 to 1 against what it stands on, curves 3 to 1."""

from __future__ import annotations

LIGHT = {
    "page": "#fbfbf9", "card": "#ffffff", "mark": "#f1f3f6", "rule": "#dfe2e6",
    "text": "#1d2127", "soft": "#5a6270", "accent": "#1b62c4",
    "good": "#0a6b4f", "bad": "#b0222c", "busy": "#8a5a00",
    "train": "#1b62c4", "eval": "#b85300", "chosen": "#0b7a5b", "rejected": "#b3265c",
    "run0": "#1b62c4", "run1": "#b85300", "run2": "#0b7a5b", "run3": "#b3265c",
    "run4": "#6d3fc0", "run5": "#7a6a00", "run6": "#00788c", "run7": "#6b6f76",
}  # fmt: skip
DARK = {
    "page": "#14171b", "card": "#1c2026", "mark": "#262b33", "rule": "#343a43",
    "text": "#e7eaee", "soft": "#a3acb9", "accent": "#7db2ff",
    "good": "#5fd6ac", "bad": "#ff8d8d", "busy": "#f0bd61",
    "train": "#7db2ff", "eval": "#ffa35c", "chosen": "#4fd1a5", "rejected": "#ff86ae",
    "run0": "#7db2ff", "run1": "#ffa35c", "run2": "#4fd1a5", "run3": "#ff86ae",
    "run4": "#bda0ff", "run5": "#dcc94a", "run6": "#5fd3e6", "run7": "#b4bac3",
}  # fmt: skip
#: Names of colours that text has; of those that curves have; of what both stand on.
TEXTS = ("text", "soft", "accent", "good", "bad", "busy", "chosen", "rejected")
CURVES = ("train", "eval", "chosen", "rejected", *(f"run{number}" for number in range(8)))
GROUNDS = ("page", "card")


def stylesheet() -> str:
    """Return CSS that sets the colours: the system's choice on a screen, ``data-theme`` over it, light on paper."""

    def block(colours: dict[str, str], scheme: str) -> str:
        values = "; ".join(f"--{name}: {value}" for name, value in colours.items())
        return f"{{ color-scheme: {scheme}; {values} }}"

    return "\n".join(
        [
            f":root {block(LIGHT, 'light')}",
            f"@media screen and (prefers-color-scheme: dark) {{ :root {block(DARK, 'dark')} }}",
            f"@media screen {{ :root[data-theme=light] {block(LIGHT, 'light')} }}",
            f"@media screen {{ :root[data-theme=dark] {block(DARK, 'dark')} }}",
            *(f".{name} {{ --c: var(--{name}) }}" for name in CURVES),
        ]
    )
