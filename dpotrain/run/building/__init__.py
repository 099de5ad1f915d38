"""Building a run from its recipe: data, models, references, trainer, and the loop over them."""
