"""Messages as chat templates take them, from whatever form a data set stores them in."""
