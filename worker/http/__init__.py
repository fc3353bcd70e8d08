"""The wire: resolving, judging and dialling addresses, keeping connections, and one exchange under one deadline."""
