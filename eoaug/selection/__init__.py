"""Which of the images that were made of a training set are kept."""
