"""Webhook delivery worker: takes due deliveries from Postgres, signs them, POSTs them, records what happened."""

__version__ = "0.2.0.dev0"
