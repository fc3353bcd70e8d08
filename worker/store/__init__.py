"""Stores behind the pipeline's port: Postgres through either driver, and one in memory."""
