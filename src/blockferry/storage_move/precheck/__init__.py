"""Why a move is refused, what is warned of, how much room it needs."""
