"""`esans compare`: evaluated runs side by side, tested user by user against one of them."""
