"""The gate: trainings that compare real images with real and made ones, and the verdict."""
