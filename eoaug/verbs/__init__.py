"""The verbs: from arguments to a plan, and from its pixels to an object of the user's type."""
