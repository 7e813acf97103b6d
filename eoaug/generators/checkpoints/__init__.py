"""Checkpoints of the Stable Diffusion family and DiffusionSat, in the layout of diffusers."""
