"""`--verify`: the frozen view and the comparison."""
