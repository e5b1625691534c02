"""The knowledge: rules and passes, one family a module; whatever is defined here is found by itself."""
