"""Verbs as processes of other services: openEO and OGC API - Processes."""
