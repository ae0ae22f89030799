"""What a deployment costs per event, run, connection and account, and what follows for sizes."""
