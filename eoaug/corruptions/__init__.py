"""Corruptions: physical defects of measurements, with five severities."""
