"""``dpotrain init``: what is known of model, data and machine, what follows from it, and the recipe that says so."""
