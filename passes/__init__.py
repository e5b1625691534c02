"""The knowledge: rules and passes, one family a module; whatever is defined here is found by itself."""

AMPC = True
"""What tells this package from one of a user's own with the same name."""
