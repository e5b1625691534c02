"""The intermediate representation: typed SSA graphs, their text form, analysis facts and the one mutator module."""
