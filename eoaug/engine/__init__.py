"""The engine: a verb's plan, and its run over chunks and tiles."""
