"""A Django application whose orders are told to their customers."""
