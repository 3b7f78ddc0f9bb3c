"""What every long job has: the loop, kill points, unexpected errors, a store that is away."""
