"""The watch beside a copy, on the copy's host: it goes on when blockferry is gone."""
