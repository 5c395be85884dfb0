"""Which backend runs an artifact here."""
