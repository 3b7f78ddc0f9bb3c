"""What runs on the host, by its own python3 from 3.9 on: nothing of blockferry but these modules is there."""
