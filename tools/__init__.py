"""Tools of the project that are not shipped: set-up and demo."""
