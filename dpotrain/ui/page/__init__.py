"""A run, or several, as one HTML page that needs no network."""
