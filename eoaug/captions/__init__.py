"""Stages 1 and 2: prompts from templates and rules, and captions of images from facts or from a model."""
