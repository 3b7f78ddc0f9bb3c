"""The program that watches the destination of a copy: `__main__.py` tells what it does and how it is called."""
