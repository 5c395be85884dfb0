"""Labelled pictures, users' own and drawn ones; the demo's weights lie here, too."""
