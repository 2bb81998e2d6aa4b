"""Running the platform: its services, first start, users, health, metrics, backups."""
