"""`python -m blockferry`: the same as the command `blockferry`."""

from blockferry.cli.main import run

if __name__ == "__main__":
    run()
