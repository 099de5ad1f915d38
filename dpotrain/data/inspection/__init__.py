"""What the model sees of the data and what is wrong with it, without the weights."""
