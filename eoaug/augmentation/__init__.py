"""Training sets: images with labels and splits, and what is made of them."""
