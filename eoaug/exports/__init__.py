"""Training sets in the forms of other tools."""
