"""What can be said of a model without changing it: what it is made of, what it costs, what slows it down."""
