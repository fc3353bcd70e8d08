"""This worker beside what people use today: see `suite`."""
