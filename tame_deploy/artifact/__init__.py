"""The artifact on disk: its directory, manifest, sidecars, and the types that they are made of."""
