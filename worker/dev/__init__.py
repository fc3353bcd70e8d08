"""What `webhook-worker dev` is made of: a receiver that prints, and endpoints that follow a file."""
