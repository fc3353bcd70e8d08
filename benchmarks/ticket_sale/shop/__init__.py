"""The shop: a small Django project that tells its partners of each order, in the order's own transaction."""
