"""Asking a graph: pictures and classes in, logits and maps out."""
