"""What train, evaluate, export and the references share: exact ranking of the whole catalogue, and metrics of the ranks."""
