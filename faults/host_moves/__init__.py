"""The matrix of moves between hosts: two lab hosts, one desk from which blockferry is typed, and a witness outside."""
