"""The four verbs: from arguments to a plan, from the plan to the user's kind of object."""
