"""The interest clock as features: computation, and the Feast repository that stores and serves them."""
