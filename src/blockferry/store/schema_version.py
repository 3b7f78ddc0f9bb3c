"""The version of the schema that this program writes: in a module of its own, which loads no SQLAlchemy."""

VERSION = "0004"
"""The revision in migrations/versions/ that makes schema.py's tables."""
