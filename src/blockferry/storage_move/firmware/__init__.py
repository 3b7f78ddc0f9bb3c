"""UEFI variables that follow their VM; managed save."""
