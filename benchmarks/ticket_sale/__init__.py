"""A shop on the day that tickets go on sale, and its three partners."""
