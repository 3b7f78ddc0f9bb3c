"""The zoo: generated hosts as they are in the field, a move on each, and a judge of what became of everything.

Imports nothing of blockferry: a judge shares no code with the accused. docs/zoo.md tells what is generated and judged.
"""
