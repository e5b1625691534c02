"""The knowledge: rules and passes, one family a module; every ``Pass`` and ``Rule`` defined here is found by itself."""
